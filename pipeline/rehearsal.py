"""A rehearsal: the same recipe and ZeRO stage on a tiny model, every stage cut short, on CPU ranks.

It goes through all that a run goes through (data, loading, every stage and reset, evaluation, checkpoint, resume,
export), so that a mistake shows before GPUs are paid for. What it cannot show is memory, speed and accuracy.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from pipeline.config import Config
from pipeline.engine import init_distributed
from pipeline.errors import UserError
from pipeline.export import export_model
from pipeline.micro_batches import steps_per_epoch
from pipeline.modeling import build_model_config, build_tokenizer, check_size
from pipeline.modeling.positions import lacks_positions
from pipeline.preparation import check_files, check_keep_stages, load_data, positions_needed
from pipeline.ranks import on_rank_zero
from pipeline.run_dir import check_run_dir
from pipeline.schedule import stage_numbers
from pipeline.train import train

NUM_ROWS = 64
BATCH_SIZE = 8
NUM_EVALUATED = 8
# Sizes of the tiny model. bitsandbytes quantises blocks of 64 weights.
LAYERS, HIDDEN, HEADS, INTERMEDIATE = 2, 64, 4, 128


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What was gone through."""

    folder: Path
    num_steps: int
    num_removed: int
    """CoT units removed in the rehearsal's last stage; its rows are few, so their longest CoT may be shorter."""
    num_removed_in_full: int
    """CoT units that the run itself removes."""
    steps_per_epoch: int
    """Optimizer steps in an epoch of the run itself."""


def rehearse(config: Config) -> Rehearsal:
    """Go through a recipe in small. Every rank takes part.

    Args:
        config: The recipe. Its data are read in full; its run directory is not touched.

    Raises:
        UserError: Whatever would stop the real run too.
    """
    disable_progress_bar()
    init_distributed()
    torch.set_num_threads(1)
    check_files(config)
    tokenizer = build_tokenizer(config.model)
    model_config = build_model_config(config.model, tokenizer)
    examples, validation = load_data(config, tokenizer)
    # What depends on all rows, or on the real model's size, is checked here; the tiny run sees neither.
    needed = positions_needed(config, examples, validation)
    if not lacks_positions(model_config, config.model.num_positions):
        check_size(model_config, tokenizer, needed)
    longest_cot = examples.longest_cot(config.removal.unit)
    check_keep_stages(config, longest_cot)

    run_dir = Path(config.run.output_dir)
    folder = run_dir.with_name(f"{run_dir.name}_rehearsal")
    check_run_dir(folder, config, resume=False, overwrite=True)
    trust = config.model.trust_remote_code
    on_rank_zero(lambda: _write_tiny_model(model_config, tokenizer, folder / "tiny_model", trust))
    small = in_small(config, folder)
    result = train(small, overwrite=True)
    train(small, resume=True)  # from the last checkpoint, so that loading one is rehearsed too
    on_rank_zero(lambda: _export(result.model_dir, folder / "exported", trust))
    return Rehearsal(
        folder,
        result.num_steps,
        _num_removed_at_end(small, examples.head(small.data.num_train).longest_cot(config.removal.unit)),
        _num_removed_at_end(config, longest_cot),
        steps_per_epoch(len(examples), config.optim.global_batch_size),
    )


def _num_removed_at_end(config: Config, longest_cot: int) -> int:
    return stage_numbers(config.schedule, longest_cot)[-1]


def in_small(config: Config, folder: Path) -> Config:
    """Return a recipe with the same course in few steps: each stage lasts one.

    Args:
        config: The recipe.
        folder: The rehearsal's run directory, with ``tiny_model`` in it.
    """
    num_rows = min(NUM_ROWS, config.data.num_train or NUM_ROWS)
    batch_size = min(BATCH_SIZE, config.optim.global_batch_size)
    an_epoch = steps_per_epoch(num_rows, batch_size)
    schedule, adaptive = config.schedule, config.schedule.adaptive
    return replace(
        config,
        data=replace(config.data, num_train=num_rows),
        model=replace(
            config.model,
            name_or_path=str(folder / "tiny_model"),
            from_scratch=None,
            tokenizer="",
            attention="auto",  # the recipe's own may need a GPU
        ),
        schedule=replace(
            schedule,
            removed_per_epoch=an_epoch,
            hold_epochs=1 / an_epoch if schedule.hold_epochs else 0,
            final_epochs=2 / an_epoch,
            max_steps=None,
            adaptive=replace(adaptive, window=1, min_steps=1, max_steps=1, on_stall="advance", slow_down=1),
        ),
        optim=replace(
            config.optim,
            global_batch_size=batch_size,
            lr_schedule="constant" if schedule.kind == "adaptive" else config.optim.lr_schedule,
            warmup_steps=min(1, config.optim.warmup_steps),
            reset_warmup_steps=min(1, config.optim.reset_warmup_steps),
        ),
        engine=replace(config.engine, num_threads=1),
        evaluation=replace(
            config.evaluation,
            every_steps=None,
            every_stages=10**6,  # at the first stage's end and the last's
            num_examples=NUM_EVALUATED,
            batch_size=NUM_EVALUATED,
        ),
        run=replace(
            config.run,
            output_dir=str(folder),
            log_every=1,
            checkpoint_every=None,
            keep_stages=[schedule.start_removed] if config.run.keep_stages or config.run.keep_every else [],
            keep_every=None,
            trackers=[],
        ),
    )


def shrunk(config: PretrainedConfig) -> PretrainedConfig:
    """Return the architecture with the same parts and vocabulary, in the smallest size that has them all."""
    tiny = config.__class__.from_dict(config.to_dict())
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    sizes = {
        "num_hidden_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": max(1, HEADS * kv_heads // config.num_attention_heads),
        "head_dim": HIDDEN // HEADS,
        "intermediate_size": INTERMEDIATE,
        "n_inner": INTERMEDIATE,
    }
    for name, size in sizes.items():
        if getattr(tiny, name, None) is not None:
            setattr(tiny, name, size)
    rope = getattr(tiny, "rope_parameters", None) or {}
    if any(isinstance(value, list) for value in rope.values()):  # a factor for each dimension of the real head
        tiny.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    if getattr(tiny, "layer_types", None):
        tiny.layer_types = tiny.layer_types[:LAYERS]
    return tiny


def _export(model_dir: Path, output: Path, trust_remote_code: bool) -> None:
    shutil.rmtree(output, ignore_errors=True)  # an earlier rehearsal's
    export_model(model_dir, output, trust_remote_code=trust_remote_code)


def _write_tiny_model(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, trust_remote_code: bool
) -> None:
    torch.manual_seed(0)
    try:
        model = AutoModelForCausalLM.from_config(
            shrunk(config), dtype=config.dtype or torch.float32, trust_remote_code=trust_remote_code
        )
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"--rehearse: {config.model_type} cannot be made small ({error}).") from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
