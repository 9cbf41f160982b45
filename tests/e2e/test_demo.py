"""The demo in small: a model really learns the full chain of thought, loses it token by token, and still answers."""

from pathlib import Path

from pipeline.comparison import compare_models
from pipeline.config import DataConfig, parse_command_line
from pipeline.records import write_records
from pipeline.tasks import Automaton, generate_splits
from pipeline.train import train
from tests.tiny import ROOT

TURNS = (0, 0, 0, 0, 0, 0, 0, 1, 2, 3)  # by how much each digit turns the lock
LOCK = tuple(tuple((state + turn) % 4 for turn in TURNS) for state in range(4))


def test_a_model_keeps_answering_when_its_chain_of_thought_is_gone(tmp_path: Path) -> None:
    for name, rows in generate_splits([Automaton(LOCK, length=4)], 6000, 500, 500, seed=0).items():
        write_records(tmp_path / f"{name}.txt", rows)
    overrides = {
        "data.train": tmp_path / "train.txt",
        "data.validation": tmp_path / "validation.txt",
        "data.cache_dir": tmp_path / "cache",
        "run.output_dir": tmp_path / "run",
        "model.from_scratch.n_embd": 64,
        "optim.lr": 2e-3,
        "schedule.adaptive.loss_threshold": 0.03,
        "schedule.final_epochs": 5,
        "evaluation.every_steps": "null",
        "engine.num_threads": 1,
    }
    arguments = [f"--{name}={value}" for name, value in overrides.items()]
    config, _ = parse_command_line(["--config", str(ROOT / "recipes" / "demo.yaml"), *arguments], "tacit train")
    result = train(config)

    folders = [tmp_path / "run" / "stages" / "removed_0000", result.model_dir]
    explicit, internalized = compare_models(
        folders,
        # The unseen questions: selection looked at validation only.
        DataConfig(validation=str(tmp_path / "test.txt"), cache_dir=str(tmp_path / "cache")),
        num_removed=None,
        num_examples=None,
        num_timed=20,
        batch_size=256,
    )
    assert explicit.evaluation.accuracy > 0.97
    assert explicit.evaluation.mean_cot_tokens == 4
    assert internalized.evaluation.accuracy > 0.9  # chance is 0.25
    assert internalized.evaluation.mean_cot_tokens == 0
    assert internalized.examples_per_second > explicit.examples_per_second
