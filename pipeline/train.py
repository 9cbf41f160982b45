"""A training run, to be read from top to bottom as the algorithm (arXiv:2405.14838)."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from pipeline.answer_spec import FILE_NAME, load_spec
from pipeline.checkpoint import load_checkpoint
from pipeline.config import Config, changes_of_the_past, load_config
from pipeline.controller import StageController
from pipeline.engine import Engine, build_engine, init_distributed
from pipeline.errors import UserError
from pipeline.examples import ExampleSet, assert_disjoint, load_examples
from pipeline.keeper import Keeper
from pipeline.modeling import build_model, build_model_config, build_tokenizer
from pipeline.ranks import barrier, from_rank_zero, rank
from pipeline.recorder import Recorder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    model_dir: Path
    num_steps: int
    best_accuracy: float | None
    """Validation accuracy of the model kept, or None if the run ended before its last stage."""
    best_step: int | None


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> TrainingResult:
    """Train through every stage.

    Args:
        config: The recipe.
        resume: Go on from the newest checkpoint in the run directory, if there is one.
        overwrite: Delete what an earlier run left in the run directory.

    Raises:
        UserError: If settings, data or model are at fault; nothing of an earlier run is lost then.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; leave one out.")
    disable_progress_bar()  # the run shows its own
    init_distributed()
    if config.engine.num_threads is not None:
        torch.set_num_threads(config.engine.num_threads)
    run_dir = Path(config.run.output_dir)
    _check_run_dir(run_dir, config, resume, overwrite)
    _check_start(config)

    tokenizer = build_tokenizer(config.model)
    examples, validation = load_data(config, tokenizer)
    engine = prepare_engine(config, tokenizer, examples, validation)
    controller = StageController(config, examples, engine)
    beyond = [number for number in config.run.keep_stages if number > controller.num_removed_at_end]
    if beyond:
        raise UserError(
            f"run.keep_stages ({beyond}): the run ends with {controller.num_removed_at_end} removed; take them out."
        )

    if overwrite:
        _clear(run_dir)
    saved = load_checkpoint(run_dir / "checkpoints", engine) if resume else None
    if saved:
        controller.restore(saved["step"], saved["controller"])
    with Recorder(run_dir, config, controller.num_removed_at_end, controller.step) as recorder:
        keeper = Keeper(run_dir, config, engine, controller, recorder, tokenizer, examples, validation)
        if saved:
            keeper.restore(saved["keeper"])
            recorder.say(f"resumed at step {controller.step}")

        stage = controller.stage
        for stage, batches in controller.stages():
            for batch in batches:
                lr = controller.learning_rate
                metrics = engine.train_step(batch, lr)
                controller.after_step(metrics)
                recorder.step(controller, stage, lr, metrics, batch)
                keeper.after_step(stage)
            keeper.after_stage(stage)
        keeper.finish(stage)
    return TrainingResult(run_dir / "model", controller.step, keeper.best_accuracy, keeper.best_step)


def _check_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> None:
    """Refuse to mix two runs in one directory; every rank learns what rank 0 finds."""
    fault = from_rank_zero(_fault_of_run_dir(run_dir, config, resume, overwrite) if rank() == 0 else None)
    if fault:
        raise UserError(fault)


def _fault_of_run_dir(run_dir: Path, config: Config, resume: bool, overwrite: bool) -> str | None:
    """Return what is wrong with the run directory; nothing or an empty text if it can be used."""
    parent = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        return f"run.output_dir ({run_dir}): {parent} is not a folder that can be written to; name another."
    if not (run_dir / "metrics.jsonl").exists():
        return None
    if not (resume or overwrite):
        return (
            f"run.output_dir ({run_dir}) holds an earlier run; add --resume to go on with it, --overwrite to replace "
            "it, or name another folder."
        )
    if not resume:
        return None
    try:
        before = load_config(run_dir / "recipe.yaml")
    except UserError as error:  # raised here, on rank 0 alone, it would leave the others waiting
        return str(error)
    return "\n".join(
        f"{name}: {old!r} when the run began, {new!r} now; a resumed run keeps it. Undo that, or start another."
        for name, old, new in changes_of_the_past(before, config)
    )


def _check_start(config: Config) -> None:
    """Refuse to shift positions a second time."""
    spec_file = Path(config.model.name_or_path) / FILE_NAME
    if config.model.name_or_path and spec_file.is_file() and load_spec(spec_file.parent).built_in_shift:
        raise UserError(
            f"model.name_or_path ({config.model.name_or_path}) has kept positions built in and cannot be trained on; "
            "start from a model under stages/ (run.keep_stages)."
        )


def _clear(run_dir: Path) -> None:
    """Delete what a run writes, and nothing else that may lie there."""
    if rank() == 0:
        for name in ("checkpoints", "model", "stages"):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        for name in ("metrics.jsonl", "samples.jsonl"):
            (run_dir / name).unlink(missing_ok=True)
    barrier()


def load_data(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[ExampleSet, ExampleSet]:
    """Return training and validation rows, which share no question.

    Raises:
        UserError: If they cannot be read, or share a question.
    """
    data = config.data
    examples = load_examples(data.train, data.train_split, data, config.format, tokenizer).head(data.num_train)
    validation = load_examples(data.validation, data.validation_split, data, config.format, tokenizer)
    assert_disjoint(examples, validation, "validation")
    if examples.layout != validation.layout:
        raise UserError("data.validation: the separators make other tokens than in data.train; use {eos} in format.*.")
    for name, rows in (("train", examples), ("validation", validation)):
        for bad_row in rows.bad_rows:
            logger.warning("data.%s: skipped %s", name, bad_row)
        logger.info("data.%s: %d rows (%d too long, %d broken)", name, len(rows), rows.num_too_long, len(rows.bad_rows))
    return examples, validation


def prepare_engine(
    config: Config, tokenizer: PreTrainedTokenizerBase, examples: ExampleSet, validation: ExampleSet
) -> Engine:
    """Return the recipe's model under DeepSpeed, with positions enough for every row.

    Raises:
        UserError: If model or engine cannot be built, or are too small for the rows.
    """
    budget, longest_row = config.engine.micro_batch_tokens, examples.longest_row()
    if budget < longest_row:
        raise UserError(
            f"engine.micro_batch_tokens ({budget}) must hold the longest training row ({longest_row} tokens); raise it "
            "or drop long rows with data.max_tokens."
        )
    longest_cot = examples.longest_cot("token") if config.removal.keep_positions else None
    num_positions = max(rows.longest_row(longest_cot) for rows in (examples, validation))
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    hidden_size = build_model_config(config.model, tokenizer).hidden_size
    return build_engine(
        lambda: build_model(config.model, tokenizer, num_positions, examples.layout.end_id, dtype, config.run.seed),
        hidden_size,
        config.engine,
        config.optim,
        config.run.seed,
        # Partitioned while it is drawn at random, a model would have other weights than without ZeRO-3.
        partitions_on_load=config.model.from_scratch is None,
    )
