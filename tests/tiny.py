"""A run small enough for a test: 2x2-digit multiplication on the real path, with a GPT-2 of some thousand weights."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import Config, load_config
from pipeline.records import write_records
from pipeline.tasks import Multiplication, generate_splits

ROOT = Path(__file__).parents[1]
RECIPE: dict[str, Any] = {
    "format": {
        "question": "{question}",
        "first_separator": " = ",
        "cot": "{cot}",
        "second_separator": " #### ",
        "answer": "{answer}",
    },
    "model": {
        "tokenizer": "words",
        "from_scratch": {
            "model_type": "gpt2",
            "n_layer": 1,
            "n_embd": 16,
            "n_head": 2,
            "n_positions": 40,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "initializer_range": 0.3,  # so large that a model after some steps does not give every row one answer
        },
    },
    # 56 rows in batches of 8 are 7 steps an epoch; 3 tokens an epoch make a stage of 2 steps.
    "schedule": {"removed_per_epoch": 3, "hold_epochs": 0.3, "final_epochs": 0.5, "remove_all_beyond": 4},
    "optim": {"lr": 1e-3, "global_batch_size": 8},
    "engine": {"micro_batch_tokens": 60, "num_threads": 1},
    "evaluation": {"num_examples": 7, "every_stages": 2, "batch_size": 4},
    "run": {"log_every": 1, "trackers": []},
}


def write_recipe(folder: Path, **overrides: Any) -> Path:
    """Write data and recipe into ``folder``; in overrides ``__`` stands for the dot."""
    for name, rows in generate_splits([Multiplication(2, 2)], 56, 13, 9, seed=3).items():
        write_records(folder / f"{name}.txt", rows)
    recipe = {section: dict(values) for section, values in RECIPE.items()}
    recipe["data"] = {
        "train": str(folder / "train.txt"),
        "validation": str(folder / "validation.txt"),
        "cache_dir": str(folder / "cache"),
    }
    recipe["run"]["output_dir"] = str(folder / "run")
    for dotted, value in overrides.items():
        section, _, name = dotted.partition("__")
        if name:
            recipe.setdefault(section, {})[name] = value
        else:
            recipe[section] = value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def tiny_config(folder: Path, **overrides: Any) -> Config:
    """Return the configuration of ``write_recipe``."""
    return load_config(write_recipe(folder, **overrides))


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def variables_of_ranks(num_ranks: int) -> list[dict[str, str]]:
    """Return what a launcher tells each rank of a run on this machine."""
    together = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**together, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def shell_environment(**variables: str) -> dict[str, str]:
    """Return what a user's shell would hand to a command, with this environment's programs first.

    A run inside the test process leaves its rank in ``os.environ``; no later command may take it for its own.
    """
    of_a_run = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in of_a_run}
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **variables}
