"""Pretrained models on two ZeRO-3 ranks: partitioned while they load, complete, with more positions if asked."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.comparison import compare_models
from pipeline.config import load_config
from pipeline.word_tokenizer import build_word_tokenizer
from tests.distributed import jobs
from tests.distributed.pool import RankPool
from tests.tiny import tiny_config, write_recipe


def _save_gpt2(folder: Path, num_positions: int) -> str:
    tokenizer = build_word_tokenizer()
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=num_positions, initializer_range=0.3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_run_needs_more_positions_than_its_model_has(two_ranks: RankPool, tmp_path: Path) -> None:
    base = _save_gpt2(tmp_path / "short", num_positions=10)
    settings = {"model__name_or_path": base, "model__from_scratch": None, "schedule__max_steps": 4}
    losses = []
    for name in ("zero0", "zero3"):
        (tmp_path / name).mkdir()
        config = tiny_config(
            tmp_path / name, model__num_positions=45, engine__deepspeed=f"ds_configs/{name}.json", **settings
        )
        rows = two_ranks.run(jobs.run_training, config, False)[0]
        losses.append([row["loss"] for row in rows if row["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    folder = tmp_path / "zero3" / "run" / "model"
    assert load_file(folder / "model.safetensors")["transformer.wpe.weight"].shape == (45, 16)
    report = compare_models([folder], config.data, num_removed=None, num_examples=7, num_timed=1, batch_size=7)[0]
    accuracies = [row["accuracy"] for row in rows if row["kind"] == "evaluation"]
    assert report.evaluation.accuracy == accuracies[-1]

    (tmp_path / "refused").mkdir()
    with pytest.raises(AssertionError, match="positions, the model has 10"):
        two_ranks.run(jobs.run_training, tiny_config(tmp_path / "refused", **settings), False)


def test_a_checkpoint_that_lacks_weights_stops_every_rank(two_ranks: RankPool, tmp_path: Path) -> None:
    base = _save_gpt2(tmp_path / "broken", num_positions=40)
    path = Path(base) / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.h.1.attn.c_attn.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    recipe = write_recipe(
        tmp_path,
        model={"name_or_path": base, "tokenizer": "words"},
        engine__deepspeed="ds_configs/zero3.json",
    )
    with pytest.raises(AssertionError) as error:
        two_ranks.run(jobs.run_training, load_config(recipe), False)
    assert str(error.value).count("UserError: model.name_or_path") == 2
    assert "lacks 1 weights, such as transformer.h.1.attn.c_attn.weight" in str(error.value)


def test_weights_are_shared_out_while_they_load(two_ranks: RankPool, tmp_path: Path) -> None:
    base = _save_gpt2(tmp_path / "base", num_positions=40)
    config = tiny_config(
        tmp_path, model__name_or_path=base, model__from_scratch=None, engine__deepspeed="ds_configs/zero3.json"
    )
    for sizes in two_ranks.run(jobs.weights_held_after_loading, config):
        assert sizes["whole"] > 0 and sizes["held"] <= 0.6 * sizes["whole"]
