"""Full finetuning and LoRA over the ZeRO stages, QLoRA on one rank: train, save, export, reload, answer alike."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from pipeline.comparison import compare_models
from pipeline.engine import init_distributed
from pipeline.export import export_model, find_source
from pipeline.modeling import load_for_inference
from pipeline.modeling.lora import keep_quantization_exact
from tests.distributed import jobs
from tests.distributed.pool import RankPool
from tests.tiny import tiny_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,  # bitsandbytes quantises blocks of 64 weights
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}
LORA = {"rank": 32, "alpha": 64}  # adapters large enough (4,096 weights) for bitsandbytes to keep moments in 8 bits
SLOW = pytest.mark.slow  # the other ZeRO stages and settings are as slow, and seldom fail alone


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a trained base model."""
    init_distributed()
    folder = tmp_path_factory.mktemp("base")
    jobs.run_training(
        tiny_config(folder, model__from_scratch=LLAMA, schedule__kind="explicit_cot", schedule__max_steps=4), False
    )
    return str(folder / "run" / "model")


def _adapted(folder: Path, base: str, ds_config: str, **overrides: Any) -> Any:
    folder.mkdir(exist_ok=True)
    settings = {
        "model__name_or_path": base,
        "model__from_scratch": None,
        "optim__lr": 1e-3,
        "engine__deepspeed": f"ds_configs/{ds_config}.json",
        "evaluation__batch_size": 7,
        **overrides,
    }
    return tiny_config(folder, **settings)


def _texts_of_the_model_kept(run_dir: Path, rows: list[dict[str, Any]]) -> list[str]:
    """What the run's own evaluation saw the model in ``model/`` write."""
    last_stage = [row for row in rows if row["kind"] == "evaluation" and row["num_removed"] == 4]
    best = max(row["accuracy"] for row in last_stage)
    step = [row["step"] for row in last_stage if row["accuracy"] == best][-1]
    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    return [sample["text"] for sample in samples if sample["step"] == step]


def _texts_of_plain_transformers(folder: Path, data: Path, **settings: Any) -> list[str]:
    """What Transformers alone generates for the evaluated rows."""
    model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    keep_quantization_exact(model)  # on a CPU that would repack 4-bit weights; a GPU has no such thing
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # peft makes them fp32 on a quantised base; training was in the model's type
            parameter.data = parameter.data.to(model.dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for line in data.read_text().splitlines()[:7]:
        ids = tokenizer(line.split("||")[0] + " = ", return_tensors="pt").input_ids
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=14)[0]
        text = tokenizer.decode(output[ids.shape[1] :])
        texts.append(text.split(tokenizer.eos_token)[0].rstrip())
    return texts


@pytest.mark.parametrize("ds_config", [pytest.param("zero0", marks=SLOW), pytest.param("zero2", marks=SLOW), "zero3"])
@pytest.mark.parametrize("lora", [{}, LORA], ids=["full", "lora"])
def test_what_is_trained_is_exported_and_answers_alike(
    two_ranks: RankPool, tmp_path: Path, base: str, lora: dict[str, int], ds_config: str
) -> None:
    config = _adapted(tmp_path, base, ds_config, lora=lora)
    before = load_file(Path(base) / "model.safetensors")
    rows = two_ranks.run(jobs.run_training, config, False)[0]
    assert len({row["num_removed"] for row in rows if row["kind"] == "train"}) == 5
    run_dir = tmp_path / "run"
    assert (run_dir / "model" / "adapter_model.safetensors").exists() == bool(lora)
    expected = _texts_of_the_model_kept(run_dir, rows)
    assert len(set(expected)) > 1

    report = export_model(run_dir / "model", tmp_path / "plain")
    assert report.merged_adapters == bool(lora) and report.dtype == "float32"
    after = load_file(tmp_path / "plain" / "model.safetensors")
    assert after.keys() == before.keys()
    assert not torch.equal(after["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"]) == bool(lora)  # frozen under LoRA
    for folder in (tmp_path / "plain", run_dir / "model"):  # merged, and adapters on their base
        texts = _texts_of_plain_transformers(folder, tmp_path / "validation.txt")
        assert texts == [text.rstrip() for text in expected]


def test_adapters_of_the_embedding_are_loaded_and_exported(tmp_path: Path, base: str) -> None:
    rows = jobs.run_training(
        _adapted(tmp_path, base, "zero2", lora={**LORA, "targets": ["q_proj", "embed_tokens"]}), False
    )
    run_dir = tmp_path / "run"
    expected = [text.rstrip() for text in _texts_of_the_model_kept(run_dir, rows)]
    before = load_file(Path(base) / "model.safetensors")
    newest = max((run_dir / "checkpoints").glob("step_*"))
    for name, source in {"model": run_dir / "model", "step": newest}.items():
        assert export_model(source, tmp_path / name).merged_adapters
        after = load_file(tmp_path / name / "model.safetensors")
        assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
        assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    assert _texts_of_plain_transformers(tmp_path / "model", tmp_path / "validation.txt") == expected


@pytest.mark.parametrize("ds_config", ["zero0", pytest.param("zero2", marks=SLOW), "zero3"])
def test_one_rank_and_two_train_the_same_adapters(
    two_ranks: RankPool, tmp_path: Path, base: str, ds_config: str
) -> None:
    one = jobs.run_training(_adapted(tmp_path / "one", base, "zero0", lora=LORA), False)
    two = two_ranks.run(jobs.run_training, _adapted(tmp_path / "two", base, ds_config, lora=LORA), False)[0]
    losses = [[row["loss"] for row in rows if row["kind"] == "train"] for rows in (one, two)]
    assert losses[1] == pytest.approx(losses[0], abs=2e-5)
    assert losses[0][0] != losses[0][-1]


@pytest.mark.parametrize(
    ("ds_config", "overrides"),
    [
        ("zero0", {}),
        ("zero3", {}),
        pytest.param("zero3", {"lora": {**LORA, "modules_to_save": ["embed_tokens"], "dropout": 0.1}}, marks=SLOW),
        pytest.param("zero3", {"engine__precision": "bf16", "model__gradient_checkpointing": True}, marks=SLOW),
        pytest.param("zero2", {"optim__optimizer": "paged_adamw_8bit", "engine__precision": "bf16"}, marks=SLOW),
        ("zero2", {"model__quantization": "nf4"}),
    ],
)
def test_a_resumed_lora_run_equals_the_uninterrupted_one(
    two_ranks: RankPool, tmp_path: Path, base: str, ds_config: str, overrides: dict[str, Any]
) -> None:
    checkpointing = {"run__checkpoint_every": 1, "run__keep_checkpoints": 100}
    config = _adapted(tmp_path, base, ds_config, **{"lora": LORA, **checkpointing, **overrides})
    whole, resumed = two_ranks.run(jobs.run_cut_and_resume, config, 9)[0]  # 9 is one step after a reset
    assert [row["loss"] for row in resumed if row["kind"] == "train"] == [
        row["loss"] for row in whole if row["kind"] == "train"
    ]


@pytest.mark.parametrize(
    ("ds_config", "overrides"),
    [
        ("zero0", {}),
        pytest.param("zero2", {}, marks=SLOW),
        pytest.param("zero3", {"engine__precision": "bf16"}, marks=SLOW),
        ("zero3", {"lora": LORA}),
        ("zero2", {"lora": LORA, "engine__precision": "bf16"}),
        ("zero0", {"lora": LORA, "model__quantization": "nf4"}),
        ("zero0", {"lora": {**LORA, "modules_to_save": ["embed_tokens"]}}),
    ],
)
def test_a_checkpoint_alone_makes_the_model_of_its_step(
    two_ranks: RankPool, tmp_path: Path, base: str, ds_config: str, overrides: dict[str, Any]
) -> None:
    config = _adapted(tmp_path, base, ds_config, schedule__max_steps=5, evaluation__every_stages=100, **overrides)
    two_ranks.run(jobs.run_training, config, False)
    checkpoint = find_source(tmp_path / "run", step=5)
    export_model(checkpoint, tmp_path / "from_checkpoint")
    export_model(tmp_path / "run" / "model", tmp_path / "from_model")  # a run without a last stage keeps its last step
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("from_checkpoint", "from_model")]
    assert weights[0].keys() == weights[1].keys()
    assert {weight.dtype for weight in weights[0].values()} == {weight.dtype for weight in weights[1].values()}
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_adapters_on_a_quantised_base_on_one_rank(tmp_path: Path, base: str, quantization: str) -> None:
    # One token at a time: with 8 bits its result depends on what else is in the pass (columns of outliers are shared).
    overrides = {
        "engine__precision": "bf16",
        "optim__optimizer": "paged_adamw_8bit",
        "evaluation__batch_size": 1,
        "evaluation__verify": False,
    }
    config = _adapted(tmp_path, base, "zero0", model__quantization=quantization, lora=LORA, **overrides)
    rows = jobs.run_training(config, False)
    run_dir = tmp_path / "run"
    expected = [text.rstrip() for text in _texts_of_the_model_kept(run_dir, rows)]
    assert len(set(expected)) > 1
    settings = {
        "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "int8": {"load_in_8bit": True},
    }[quantization]
    if quantization == "nf4":
        settings["bnb_4bit_compute_dtype"] = torch.bfloat16
    plain = {"quantization_config": BitsAndBytesConfig(**settings), "dtype": torch.bfloat16}
    assert _texts_of_plain_transformers(run_dir / "model", tmp_path / "validation.txt", **plain) == expected
    assert load_for_inference(run_dir / "model")[0].is_quantized
    report = compare_models(
        [run_dir / "model"], config.data, num_removed=None, num_examples=7, num_timed=1, batch_size=1, verify=False
    )[0]
    assert [sample.text.rstrip() for sample in report.evaluation.samples] == expected

    # Merging takes the base as it was before quantisation.
    report = export_model(run_dir / "model", tmp_path / "plain")
    assert report.dtype == "bfloat16"
    name = "model.layers.1.self_attn.v_proj"
    adapters = load_file(run_dir / "model" / "adapter_model.safetensors")
    low, high = (adapters[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    original = load_file(Path(base) / "model.safetensors")[f"{name}.weight"].bfloat16().float()
    merged = load_file(tmp_path / "plain" / "model.safetensors")[f"{name}.weight"].float()
    assert high.any()
    torch.testing.assert_close(merged, original + 64 / 32 * high @ low, atol=2e-2, rtol=1e-2)


def test_a_raised_limit_of_positions_stays_with_the_adapters(tmp_path: Path, base: str) -> None:
    short = tmp_path / "short"
    shutil.copytree(base, short)
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 10}))
    config = _adapted(tmp_path, str(short), "zero0", model__num_positions=45, lora=LORA)
    expected = _texts_of_the_model_kept(tmp_path / "run", jobs.run_training(config, False))
    assert max(len(text.split()) for text in expected) > 3  # more than 10 positions allow
    export_model(tmp_path / "run" / "model", tmp_path / "plain")
    folders = [tmp_path / "run" / "model", tmp_path / "plain"]
    for report in compare_models(folders, config.data, num_removed=None, num_examples=7, num_timed=1, batch_size=7):
        assert [sample.text for sample in report.evaluation.samples] == expected


def test_checkpoints_of_adapters_leave_the_base_out(tmp_path: Path, base: str) -> None:
    sizes = {}
    for name, lora in {"full": {}, "lora": {"rank": 1}}.items():
        config = _adapted(tmp_path / name, base, "zero0", lora=lora, schedule__max_steps=2)
        jobs.run_training(config, False)
        folder = find_source(tmp_path / name / "run", step=2) / "engine"
        sizes[name] = sum(path.stat().st_size for path in folder.iterdir())
    assert sizes["lora"] < 0.2 * sizes["full"]


@pytest.mark.parametrize("optimizer", ["adamw", "paged_adamw_8bit"])
@pytest.mark.parametrize("ds_config", ["zero0", "zero2", "zero3"])
def test_a_reset_touches_adapters_only(
    two_ranks: RankPool, tmp_path: Path, base: str, ds_config: str, optimizer: str
) -> None:
    config = _adapted(tmp_path, base, ds_config, lora=LORA, optim__optimizer=optimizer)
    for result in two_ranks.run(jobs.reset_with_adapters, config):
        assert result["moments_before"] > 0
        assert result["zeroed"] and set(result["steps"]) == {0}
        assert result["weights_unchanged"] and result["base_unchanged"]
        assert result["same_as_fresh"]
        assert ("torch.uint8" in result["moment_dtypes"]) == (optimizer == "paged_adamw_8bit")
