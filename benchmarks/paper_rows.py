"""A training run of the paper's first task in its full length: 808,000 rows of 4x4 multiplication, random weights."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.row_lengths import examples_like
from benchmarks.shapes import SHAPES
from pipeline.config import Config, load_config
from pipeline.controller import StageController
from pipeline.engine import Engine, init_distributed
from pipeline.examples import ExampleSet, open_rows
from pipeline.layout import SequenceLayout
from pipeline.modeling import build_tokenizer
from pipeline.preparation import prepare_engine

RECIPE = Path(__file__).parents[1] / "recipes" / "multiplication_4x4_gpt2.yaml"
NUM_ROWS, NUM_DISTINCT = 808_000, 4_040
NUM_IDS = 1_000  # that occur in the rows
GPT2_SMALL = SHAPES["GPT-2 Small"]
GPT2_TINY = {"model_type": "gpt2", "vocab_size": NUM_IDS, "n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 80}
ZERO_STAGES = (0, 2, 3)


def write_rows(folder: Path) -> None:
    """Lay down the table, which every rank maps into memory: distinct rows of the right lengths, again and again."""
    part = examples_like("4x4", NUM_IDS, NUM_DISTINCT).rows
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, part.schema) as writer:
        for _ in range(NUM_ROWS // NUM_DISTINCT):
            writer.write_table(part)


def recipe(zero: int, model: dict[str, Any], num_threads: int, global_batch_size: int = 32) -> Config:
    """Return the paper's recipe with a model from scratch; its tokenizer is built in and not asked: it needs no hub."""
    config = load_config(RECIPE)
    return replace(
        config,
        model=replace(config.model, name_or_path="", from_scratch=model, tokenizer="words"),
        optim=replace(config.optim, global_batch_size=global_batch_size),
        engine=replace(config.engine, deepspeed=f"ds_configs/zero{zero}.json", num_threads=num_threads),
    )


def open_run(folder: Path, config: Config) -> tuple[Engine, StageController]:
    """Join the other ranks; returns what a training run works with."""
    init_distributed()
    assert config.engine.num_threads is not None
    torch.set_num_threads(config.engine.num_threads)
    layout: SequenceLayout = examples_like("4x4", NUM_IDS, 1).layout
    examples = ExampleSet(open_rows(folder / "rows.arrow"), layout)
    engine = prepare_engine(config, build_tokenizer(config.model), examples, examples)
    return engine, StageController(config, examples, engine)
