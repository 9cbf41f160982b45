"""Whole runs in one process: what is saved answers as what was trained, from every format and kind of model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.batching import IGNORE_INDEX, StepBatch
from pipeline.comparison import compare_models
from pipeline.config import Config, load_config
from pipeline.engine import Engine, StepMetrics
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, Sample
from pipeline.keeper import Keeper
from pipeline.model_folder import write_consolidated
from pipeline.records import write_records
from pipeline.report.analysis import kept_evaluation
from pipeline.report.run import read_run
from pipeline.tasks import Multiplication
from pipeline.train import train
from tests.tiny import RECIPE, tiny_config, write_recipe

DROPOUT = {**RECIPE["model"]["from_scratch"], "resid_pdrop": 0.2, "embd_pdrop": 0.2, "attn_pdrop": 0.2}
PAPER_FORMAT = {"question": "{bos} {question} ", "first_separator": "{eos}", "cot": " {cot} "}
PAPER_FORMAT |= {"second_separator": "{eos}", "answer": " #### {answer} "}
LLAMA = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
ERNIE = {"model_type": "ernie4_5_moe", "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2}
ERNIE |= {"moe_num_experts": 2, "moe_k": 1, "moe_intermediate_size": 16, "moe_layer_start_index": 1}
ERNIE |= {"initializer_range": 0.3, "intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 40}
LLAMA |= {"initializer_range": 0.3, "intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 40}


def _rows(config: Config, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run.output_dir) / name).read_text().splitlines()]


def _trained_on(monkeypatch: pytest.MonkeyPatch) -> list[StepBatch]:
    """Return a list that fills with the batches of runs to come."""
    batches: list[StepBatch] = []
    really = Engine.train_step

    def train_step(self: Engine, batch: StepBatch, learning_rate: float) -> StepMetrics:
        batches.append(batch)
        return really(self, batch, learning_rate)

    monkeypatch.setattr(Engine, "train_step", train_step)
    return batches


def _samples_of_kept_model(config: Config, step: int | None) -> list[dict[str, Any]]:
    return [row for row in _rows(config, "samples.jsonl") if row["step"] == step]


def _evaluation(num_right: int) -> Evaluation:
    """Return one of ten rows."""
    return Evaluation(tuple(Sample(row, "", "", "", row < num_right, 0, 1, "") for row in range(10)))


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param({}, id="gpt2"),
        pytest.param({"removal__keep_positions": True}, id="gpt2-kept-positions"),
        pytest.param({"removal__keep_positions": True, "model__from_scratch": LLAMA}, id="llama-kept-positions"),
        pytest.param({"format": PAPER_FORMAT, "removal__keep_positions": True}, id="paper-format"),
        pytest.param({"format": PAPER_FORMAT, "format__keep_second_separator": False}, id="second-separator-goes"),
        pytest.param({"removal__side": "right"}, id="right"),
        pytest.param({"engine__precision": "bf16"}, id="bf16"),
        pytest.param({"model__from_scratch": DROPOUT}, id="dropout"),
    ],
)
def test_the_saved_model_answers_as_it_was_evaluated(tmp_path: Path, overrides: dict[str, Any]) -> None:
    config = tiny_config(tmp_path, **overrides)
    result = train(config)
    in_run = _samples_of_kept_model(config, result.best_step)
    assert len(in_run) == 7
    assert len({row["text"] for row in in_run}) > 3  # or agreement would say little
    report = compare_models(
        [result.model_dir], config.data, num_removed=None, num_examples=7, num_timed=2, batch_size=3
    )[0]
    assert [sample.text for sample in report.evaluation.samples] == [row["text"] for row in in_run]
    assert report.evaluation.accuracy == result.best_accuracy
    assert report.examples_per_second > 0


@pytest.mark.parametrize(("right_first", "num_positions"), [(0, 32), (3, 35)])
def test_plain_generate_answers_as_our_evaluation_with_kept_positions(
    tmp_path: Path, right_first: int, num_positions: int
) -> None:
    config = tiny_config(tmp_path, removal__keep_positions=True, removal__right_first=right_first)
    result = train(config)
    model = AutoModelForCausalLM.from_pretrained(result.model_dir)
    tokenizer = AutoTokenizer.from_pretrained(result.model_dir)
    # 40 positions less those of the CoT's 8 tokens that went from the left: their rows of the position table are gone.
    assert model.config.n_positions == num_positions
    in_run = _samples_of_kept_model(config, result.best_step)
    assert len(in_run) == 7 and len({row["text"] for row in in_run}) > 1
    for row in in_run:
        prompt = tokenizer(f"{row['question']} =", return_tensors="pt")
        written = model.generate(**prompt, max_new_tokens=len(row["text"].split()))[0, prompt.input_ids.shape[1] :]
        assert tokenizer.decode(written) == row["text"]


def test_a_kept_model_is_told_the_longest_cot_of_the_training_rows(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, removal__keep_positions=True, schedule__max_steps=1)
    write_records(tmp_path / "validation.txt", [Multiplication(2, 1).record_at(number) for number in range(9)])
    described = json.loads((train(config).model_dir / "tacit.json").read_text())
    assert described["longest_cot"] == 8  # of 2x2 digits; 2x1 digits take fewer


def test_weights_that_an_architecture_never_trains_are_saved_with_the_others(tmp_path: Path) -> None:
    """A router's bias of Ernie's is set by hand, so it has no gradient: the model has no adapters for that."""
    config = tiny_config(tmp_path, model__from_scratch=ERNIE, engine__deepspeed="ds_configs/zero2.json")
    result = train(config)
    in_run = _samples_of_kept_model(config, result.best_step)
    newest = (tmp_path / "run" / "checkpoints" / "latest").resolve()
    write_consolidated(newest, tmp_path / "consolidated")
    for folder in (result.model_dir, tmp_path / "consolidated"):
        report = compare_models([folder], config.data, num_removed=None, num_examples=7, num_timed=1, batch_size=3)[0]
        assert [sample.text for sample in report.evaluation.samples] == [row["text"] for row in in_run]


def test_a_base_that_has_changed_is_extended_anew(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    base = train(tiny_config(tmp_path / "base", schedule__max_steps=1)).model_dir
    settings = {"name_or_path": str(base), "num_positions": 60}
    config = tiny_config(tmp_path, model=settings, schedule__max_steps=1)
    train(config)
    first = _rows(config, "metrics.jsonl")[0]["loss"]
    train(tiny_config(tmp_path / "base", schedule__max_steps=4, run__seed=5), overwrite=True)
    train(config, overwrite=True)
    assert _rows(config, "metrics.jsonl")[0]["loss"] != first
    assert len(list((tmp_path / "run").glob("base_60_*"))) == 1


def test_a_finished_run_that_is_resumed_leaves_its_model_as_it_was(tmp_path: Path) -> None:
    stages = {"loss_threshold": 100.0, "window": 1, "min_steps": 1}
    config = tiny_config(
        tmp_path, schedule={"kind": "adaptive", "adaptive": stages, "final_epochs": 0, "remove_all_beyond": 4}
    )
    train(config)
    described = (tmp_path / "run" / "model" / "tacit.json").read_text()
    assert json.loads(described)["num_removed"] == 3  # no step was done with all removed
    train(config, resume=True)
    assert (tmp_path / "run" / "model" / "tacit.json").read_text() == described


def test_the_run_directory_holds_what_the_run_needs(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__keep_stages=[0, 2])
    result = train(config)
    run_dir = tmp_path / "run"
    assert load_config(run_dir / "recipe.yaml") == config
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["world_size"] == 1 and environment["versions"]["deepspeed"]
    rows = _rows(config, "metrics.jsonl")
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == list(range(1, result.num_steps + 1))
    # hold 2 steps, then a stage every 2 steps (7 an epoch, 3 tokens an epoch), the last of 4 (half an epoch).
    assert [row["num_removed"] for row in rows if row["kind"] == "train"] == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert [row["step"] for row in rows if row.get("after_reset")] == [5, 7, 9, 11]
    needed = {"epoch", "stage", "loss", "token_accuracy", "lr", "grad_norm", "tokens_per_second", "mfu", "memory_mib"}
    assert needed <= rows[0].keys()
    end = AutoTokenizer.from_pretrained(result.model_dir).eos_token_id
    assert json.loads((result.model_dir / "generation_config.json").read_text())["eos_token_id"] == end
    assert sorted(path.name for path in (run_dir / "stages").iterdir()) == ["removed_0000", "removed_0002"]
    checkpoints = run_dir / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000008", "step_00000014"]
    assert (checkpoints / "latest").resolve() == (checkpoints / "step_00000014").resolve()


def test_a_model_with_built_in_positions_is_not_shifted_twice(tmp_path: Path) -> None:
    first = tiny_config(tmp_path, removal__keep_positions=True, run__keep_stages=[2])
    built_in = train(first).model_dir
    (tmp_path / "second").mkdir()
    recipe = {"model__from_scratch": None, "schedule__start_removed": 2, "removal__keep_positions": True}
    with pytest.raises(UserError, match="has kept positions built in"):
        train(tiny_config(tmp_path / "second", model__name_or_path=str(built_in), **recipe))
    with pytest.raises(UserError, match="positions are built in for 4 removed"):
        compare_models([built_in], first.data, num_removed=2, num_examples=3, num_timed=1, batch_size=3)
    write_records(tmp_path / "longer.txt", [Multiplication(3, 2).record_at(7)])
    longer = dataclasses.replace(first.data, validation=str(tmp_path / "longer.txt"))
    with pytest.raises(UserError, match="built in for questions of 5 tokens"):
        compare_models([built_in], longer, num_removed=None, num_examples=None, num_timed=1, batch_size=3)
    # A stage's model has its whole position table, and goes on from where it was kept.
    stage = tmp_path / "run" / "stages" / "removed_0002"
    assert AutoModelForCausalLM.from_pretrained(stage).config.n_positions == 40
    second = tiny_config(tmp_path / "second", model__name_or_path=str(stage), schedule__hold_epochs=0, **recipe)
    train(second)
    assert [row["num_removed"] for row in _rows(second, "metrics.jsonl") if row["kind"] == "train"][0] == 2


def test_a_cut_at_the_end_of_a_stage_loses_neither_its_model_nor_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, run__checkpoint_every=2, run__keep_stages=[1])

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        # Stages end after 4, 6, 8 and 10 steps, where checkpoints are due as well; nothing is saved before the cut.
        patched.setattr(Keeper, "after_stage", cut)
        train(config)
    with (tmp_path / "run" / "samples.jsonl").open("a") as file:
        file.write('{"step": 2, "row')  # a line that the cut left unfinished
    train(config, resume=True)
    assert (tmp_path / "run" / "stages" / "removed_0001" / "config.json").exists()
    evaluated = [row["step"] for row in _rows(config, "metrics.jsonl") if row["kind"] == "evaluation"]
    assert evaluated == [2, 4, 6, 8, 14]
    steps = [row["step"] for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"]
    assert steps == list(range(1, 15))


def test_the_model_chosen_between_the_last_checkpoint_and_a_cut_is_known_to_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(
        tmp_path, schedule={"kind": "no_cot", "max_steps": 8}, evaluation__every_steps=1, run__checkpoint_every=3
    )
    # Checkpoint after step 3, best model at step 5, cut at step 6; the second time all evaluations turn out worse.
    numbers_right = iter([1, 1, 2, 1, 9, None, 0, 0, 0, 0, 0])

    def evaluate(*_: Any, **__: Any) -> Evaluation:
        num_right = next(numbers_right)
        if num_right is None:
            raise KeyboardInterrupt
        return _evaluation(num_right)

    monkeypatch.setattr("pipeline.keeper.evaluate", evaluate)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    result = train(config, resume=True)
    assert (result.best_accuracy, result.best_step) == (0.9, 5)
    assert kept_evaluation(read_run(tmp_path / "run"))["step"] == 5
    again = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_of_equally_accurate_models_the_later_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers_right = iter([1, 5, 5, 2])
    monkeypatch.setattr("pipeline.keeper.evaluate", lambda *_, **__: _evaluation(next(numbers_right)))
    result = train(tiny_config(tmp_path, schedule={"kind": "no_cot", "max_steps": 4}, evaluation__every_steps=1))
    assert (result.best_accuracy, result.best_step) == (0.5, 3)
    assert json.loads((result.model_dir / "tacit.json").read_text())["step"] == 3


def test_a_run_starts_from_an_explicit_checkpoint_at_a_given_number_removed(tmp_path: Path) -> None:
    first = tiny_config(tmp_path, schedule__kind="explicit_cot", schedule__final_epochs=1)
    kept = train(first)
    assert kept.best_accuracy is not None
    weights = AutoModelForCausalLM.from_pretrained(kept.model_dir).state_dict()

    (tmp_path / "second").mkdir()
    recipe = {"model__name_or_path": str(kept.model_dir), "model__from_scratch": None, "schedule__start_removed": 2}
    second = tiny_config(tmp_path / "second", **recipe, schedule__max_steps=1, schedule__hold_epochs=0, optim__lr=1e-12)
    train(second)
    rows = _rows(second, "metrics.jsonl")
    assert [row["num_removed"] for row in rows if row["kind"] == "train"] == [2]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "second" / "run" / "model").state_dict()
    assert all(torch.allclose(loaded[name], weights[name], atol=1e-6) for name in weights)


# A row's labels are 8 tokens of CoT, the second separator, 4 digits of answer, and the end.
@pytest.mark.parametrize(("kind", "num_removed", "num_labels"), [("explicit_cot", 0, 14), ("no_cot", 4, 6)])
def test_baselines_stay_in_their_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, num_removed: int, num_labels: int
) -> None:
    config = tiny_config(tmp_path, schedule__kind=kind, schedule__final_epochs=1, schedule__max_steps=9)
    batches = _trained_on(monkeypatch)
    assert train(config).num_steps == 9
    parts = [part for batch in batches for part in batch.micro_batches]
    assert {number for part in parts for number in (part.labels != IGNORE_INDEX).sum(-1).tolist()} == {num_labels}
    rows = _rows(config, "metrics.jsonl")
    assert {row["num_removed"] for row in rows} == {num_removed}
    assert not any(row.get("after_reset") for row in rows)
    assert any(row["kind"] == "evaluation" for row in rows)


def test_the_learning_rate_falls_over_the_last_stage_of_an_adaptive_run(tmp_path: Path) -> None:
    adaptive = {"loss_threshold": 99.0, "window": 1, "min_steps": 1, "removed_per_stage": 2}
    schedule = {"schedule__kind": "adaptive", "schedule__adaptive": adaptive, "schedule__final_epochs": 1}
    config = tiny_config(tmp_path, **schedule, optim__final_decay=1.0, optim__lr=1e-3, run__log_every=1)
    train(config)
    rows = [row for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"]
    last = [row["lr"] for row in rows if row["num_removed"] == 4]
    assert [row["lr"] for row in rows if row["num_removed"] < 4] == [1e-3] * (len(rows) - len(last))
    assert len(last) > 2
    assert last == pytest.approx([1e-3 * (1 - k / len(last)) for k in range(len(last))])


def test_a_stage_that_stands_still_is_ended_on_resume(tmp_path: Path) -> None:
    def waits_for(loss: float, num_steps: int) -> Config:
        adaptive = {"loss_threshold": loss, "window": 1, "min_steps": 1, "removed_per_stage": 4}
        schedule = {"schedule__kind": "adaptive", "schedule__adaptive": adaptive, "schedule__max_steps": num_steps}
        return tiny_config(tmp_path, **schedule, run__log_every=1)

    train(waits_for(1e-9, 5))
    config = waits_for(99.0, 8)
    train(config, resume=True)
    rows = [row for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"]
    assert [row["num_removed"] for row in rows] == [0] * 6 + [4] * 2


def test_the_seed_decides_on_weights_order_and_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bytes, tuple[int, ...], int]] = []
    really = Engine.train_step

    def train_step(self: Engine, batch: StepBatch, learning_rate: float) -> StepMetrics:
        weights = next(iter(self.model.parameters())).detach().numpy().tobytes()
        metrics = really(self, batch, learning_rate)
        seen.append((weights, batch.row_numbers, torch.initial_seed()))
        return metrics

    monkeypatch.setattr(Engine, "train_step", train_step)
    for seed in (0, 0, 1):
        train(tiny_config(tmp_path, run__seed=seed, schedule__max_steps=1), overwrite=True)
    first, again, other = seen
    assert again == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_dropout_is_resumed_too(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, model__from_scratch=DROPOUT, run__checkpoint_every=5, run__keep_checkpoints=9, schedule__max_steps=8
    )
    train(config)
    whole = [row["loss"] for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"]
    checkpoints = tmp_path / "run" / "checkpoints"
    for path in checkpoints.glob("step_*"):
        if path.name > "step_00000005":
            (path / "manifest.json").write_text("{")  # a damaged checkpoint is passed over
    train(config, resume=True)
    assert [row["loss"] for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"] == whole


def test_damaged_checkpoints_are_never_mistaken_for_good_ones(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, run__checkpoint_every=2, run__keep_checkpoints=1, schedule__max_steps=4)
    train(config)
    newest = tmp_path / "run" / "checkpoints" / "step_00000004"
    shutil.copytree(newest, newest.with_name("step_00000090"))
    state = newest.with_name("step_00000090") / "controller.json"
    state.write_text(state.read_text().replace("4", "5"))  # as long as before, but not what was saved
    longer = tiny_config(tmp_path, run__checkpoint_every=2, run__keep_checkpoints=1, schedule__max_steps=6)
    train(longer, resume=True)
    assert sorted(path.name for path in newest.parent.iterdir()) == [
        ".step_00000090.damaged",
        "latest",
        "step_00000006",
    ]

    (newest.with_name("step_00000006") / "controller.json").unlink()
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        train(longer, resume=True)


def test_an_earlier_run_is_neither_mixed_nor_lost(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, schedule__max_steps=2)
    train(config)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="--resume.*--overwrite"):
        train(config)
    broken = tiny_config(tmp_path, schedule__max_steps=2, data__train=str(tmp_path / "nowhere.txt"))
    with pytest.raises(UserError, match="nowhere.txt"):
        train(broken, overwrite=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before
    with pytest.raises(UserError, match="exclude each other"):
        train(config, overwrite=True, resume=True)
    train(config, overwrite=True)
    assert len(_rows(config, "metrics.jsonl")) == len(before.splitlines())


@pytest.mark.parametrize("checkpoint_every", [None, 1])
def test_a_run_cut_by_its_last_step_is_evaluated_and_saved_and_going_on_repeats_nothing(
    tmp_path: Path, checkpoint_every: int | None
) -> None:
    # Step 9 lies in stage 3, which is not one of every second that is evaluated.
    config = tiny_config(tmp_path, schedule__max_steps=9, run__checkpoint_every=checkpoint_every)
    result = train(config)
    assert result.best_accuracy is None
    before = _rows(config, "metrics.jsonl")
    assert [(row["kind"], row["step"]) for row in before[-2:]] == [("evaluation", 9), ("checkpoint", 9)]
    assert (tmp_path / "run" / "checkpoints" / "step_00000009").is_dir()
    assert json.loads((result.model_dir / "tacit.json").read_text())["num_removed"] == 3
    train(config, resume=True)
    assert _rows(config, "metrics.jsonl") == before


def test_steps_are_removed_whole(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, removal__unit="step", schedule__remove_all_beyond=None)
    for name, numbers in {"train": range(20, 76), "validation": range(10)}.items():
        rows = [
            {"question": f"{i // 10} {i % 10}", "steps": ["1 2", "3", "4 5 6"][: 1 + i % 3], "answer": str(i % 10)}
            for i in numbers
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe.write_text(recipe.read_text().replace(".txt", ".jsonl"))
    config = load_config(recipe)
    train(config)
    removed = [row["num_removed"] for row in _rows(config, "metrics.jsonl") if row["kind"] == "train"]
    assert sorted(set(removed)) == [0, 1, 2, 3]
