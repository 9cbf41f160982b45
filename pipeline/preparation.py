"""What stands before the first step: rows, and a model under DeepSpeed that suits them."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import FILE_NAME, load_spec
from pipeline.config import Config, ModelConfig
from pipeline.ds_config import check_suits_quantization
from pipeline.engine import Engine, build_engine
from pipeline.errors import UserError, listed
from pipeline.evaluation import check_answers
from pipeline.examples import ExampleSet, assert_disjoint, load_examples
from pipeline.modeling import build_model, build_model_config, check_takes_positions
from pipeline.modeling.fake_model import build_fake_model
from pipeline.modeling.positions import lacks_positions, write_extended
from pipeline.ranks import from_rank_zero, on_rank_zero, world_size
from pipeline.run_dir import EXTENDED
from pipeline.schedule import stage_numbers
from pipeline.throughput import Throughput, peak_flops
from pipeline.trackers import chosen_trackers

logger = logging.getLogger(__name__)


def check_files(config: Config) -> None:
    """Read what takes no time, before the data, which may take long.

    Raises:
        UserError: If the DeepSpeed JSON or the model named is at fault, or they do not go together.
    """
    check_suits_quantization(config.engine, config.model.quantization)
    chosen_trackers(config.run.trackers)
    name = config.model.name_or_path
    check_model_path(name)
    # Positions must not be shifted a second time.
    if name and (Path(name) / FILE_NAME).is_file() and load_spec(Path(name)).built_in_shift:
        raise UserError(
            f"model.name_or_path ({name}) has kept positions built in and cannot be trained on; start from a model "
            "under stages/ (run.keep_stages)."
        )


def check_model_path(name: str) -> None:
    """Refuse a path that is not there, before the Hub is asked for it.

    A name is a path if it is absolute, longer than the Hub's OWNER/MODEL, or in a folder that is here.

    Raises:
        UserError: If it is one, and nothing stands there.
    """
    parts = Path(name).parts
    is_path = name.startswith((".", "~", "/")) or len(parts) > 2 or (len(parts) == 2 and Path(parts[0]).is_dir())
    if is_path and not Path(name).exists():
        raise UserError(f"model.name_or_path ({name}): there is no such folder; check the path.")


def load_data(config: Config, tokenizer: PreTrainedTokenizerBase) -> tuple[ExampleSet, ExampleSet]:
    """Return training and validation rows, which share no question.

    Raises:
        UserError: If they cannot be read, or share a question.
    """
    data = config.data
    examples = load_examples(data.train, data.train_split, data, config.format, tokenizer).head(data.num_train)
    validation = load_examples(data.validation, data.validation_split, data, config.format, tokenizer)
    assert_disjoint(examples, validation, "validation")
    check_answers(validation, tokenizer)
    if examples.layout != validation.layout:
        raise UserError("data.validation: the separators make other tokens than in data.train; use {eos} in format.*.")
    for name, rows in (("train", examples), ("validation", validation)):
        for bad_row in rows.bad_rows:
            logger.warning("data.%s: skipped %s", name, bad_row)
        logger.info("data.%s: %d rows (%d too long, %d broken)", name, len(rows), rows.num_too_long, len(rows.bad_rows))
    return examples, validation


def positions_needed(config: Config, examples: ExampleSet, validation: ExampleSet) -> int:
    """Return the positions that a model needs for every row.

    Raises:
        UserError: If a training row is longer than a micro-batch may be.
    """
    budget, longest_row = config.engine.micro_batch_tokens, examples.longest_row()
    if budget < longest_row:
        raise UserError(
            f"engine.micro_batch_tokens ({budget}) must hold the longest training row ({longest_row} tokens); raise it "
            "or drop long rows with data.max_tokens."
        )
    longest_cot = examples.longest_cot("token") if config.removal.keep_positions else None
    return max(rows.longest_row(longest_cot) for rows in (examples, validation))


def check_keep_stages(config: Config, longest_cot: int) -> None:
    """Refuse to keep stages that never come.

    Args:
        config: The recipe.
        longest_cot: Units in the longest training CoT.

    Raises:
        UserError: If ``run.keep_stages`` names any.
    """
    numbers = stage_numbers(config.schedule, longest_cot)
    if config.schedule.adaptive.on_stall == "back":  # then a run may stand between them
        numbers = list(range(numbers[-1] + 1))
    # One before the run's first stage does no harm: recipes are begun at another number, and by No CoT.
    missing = [number for number in config.run.keep_stages if number > numbers[0] and number not in numbers]
    if missing:
        raise UserError(
            f"run.keep_stages ({missing}): no stage of the run has so many units removed (they have "
            f"{listed(numbers)}); take them out."
        )


def prepare_engine(
    config: Config, tokenizer: PreTrainedTokenizerBase, examples: ExampleSet, validation: ExampleSet
) -> Engine:
    """Return the recipe's model under DeepSpeed, with positions enough for every row.

    Raises:
        UserError: If model or engine cannot be built, or are too small for the rows.
    """
    num_positions = positions_needed(config, examples, validation)
    batch_size = config.optim.global_batch_size
    if (num_idle := world_size() - min(batch_size, len(examples))) > 0:
        message = "optim.global_batch_size (%d): a step has no row for %d of %d ranks; start fewer, or raise it"
        logger.warning(message, batch_size, num_idle, world_size())
    dtype = _dtype(config)
    model = _with_positions(config.model, tokenizer, Path(config.run.output_dir), num_positions)
    model_config = build_model_config(model, tokenizer)
    if config.removal.keep_positions:
        check_takes_positions(model_config)
    end_id, seed = examples.layout.end_id, config.run.seed
    return build_engine(
        lambda: build_model(model, config.lora, tokenizer, num_positions, end_id, dtype, seed),
        model_config.hidden_size,
        config.engine,
        config.optim,
        config.run.seed,
        # Partitioned while it is drawn at random, a model would have other weights than without ZeRO-3.
        partitions_on_load=config.model.from_scratch is None,
        padding_free=config.model.padding_free,
    )


def make_throughput(config: Config, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Throughput:
    """Return what measures the run's speed; an architecture that comes with its own code has no known FLOPs."""
    size = None
    if not config.model.trust_remote_code:
        model_config = build_model_config(config.model, tokenizer)
        size = build_fake_model(model_config, config.model, config.lora, _dtype(config)).size
    return Throughput(size, peak_flops(device, _dtype(config)))


def _dtype(config: Config) -> torch.dtype:
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def _with_positions(
    model: ModelConfig, tokenizer: PreTrainedTokenizerBase, run_dir: Path, num_needed: int
) -> ModelConfig:
    """Return the model to load: the recipe's, or a copy of it with a longer position table, made once."""
    wanted = model.num_positions
    if model.from_scratch is not None or not lacks_positions(build_model_config(model, tokenizer), wanted):
        return model
    assert wanted is not None
    if wanted < num_needed:
        raise UserError(
            f"model.num_positions ({wanted}) must not be below the {num_needed} that the longest row takes; raise it."
        )
    # Named after what it was made of: a run that is refused later must not have changed an earlier one's base.
    files = sorted(Path(model.name_or_path).glob("*"))  # none of a model of the Hub
    source = [model.name_or_path, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)]
    digest = from_rank_zero(hashlib.sha256(str(source).encode()).hexdigest()[:8])  # each node may have its own copy
    folder = run_dir / f"{EXTENDED}_{wanted}_{digest}"
    if from_rank_zero(not folder.exists()):
        on_rank_zero(lambda: write_extended(model.name_or_path, wanted, folder, model.trust_remote_code))
    return replace(model, name_or_path=str(folder))
