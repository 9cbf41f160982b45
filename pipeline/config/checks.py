"""Rules that a setting, or several together, must keep. Each fault is one line: field, value, rule, remedy."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from operator import attrgetter

from pipeline.config.schema import AdaptiveConfig, Config, FormatConfig, LoraConfig

# Fields that must be at least this much. Null passes: it means "not set".
MINIMUM = {
    "data.num_train": 1,
    "data.max_tokens": 1,
    "model.num_positions": 1,
    "lora.rank": 1,
    "schedule.hold_epochs": 0,
    "removal.earlier_from": 0,
    "removal.right_first": 0,
    "schedule.start_removed": 0,
    "schedule.remove_all_beyond": 1,
    "schedule.final_epochs": 0,
    "schedule.max_steps": 1,
    "schedule.adaptive.window": 1,
    "schedule.adaptive.min_steps": 1,
    "schedule.adaptive.max_steps": 1,
    "schedule.adaptive.slow_down": 1,
    "schedule.adaptive.removed_per_stage": 1,
    "optim.warmup_steps": 0,
    "optim.reset_warmup_steps": 0,
    "optim.global_batch_size": 1,
    "optim.weight_decay": 0,
    "optim.max_grad_norm": 0,
    "optim.max_nonfinite": 1,
    "engine.micro_batch_tokens": 1,
    "engine.num_threads": 1,
    "engine.rank_timeout": 5,
    "evaluation.every_steps": 1,
    "evaluation.every_stages": 1,
    "evaluation.num_examples": 1,
    "evaluation.batch_size": 1,
    "run.seed": 0,
    "run.log_every": 1,
    "run.checkpoint_every": 1,
    "run.keep_checkpoints": 1,
    "run.keep_every": 1,
}
POSITIVE = (
    "lora.alpha",
    "removal.smoothing_lambda",
    "schedule.removed_per_epoch",
    "schedule.adaptive.loss_threshold",
    "schedule.adaptive.relative_threshold",
    "optim.lr",
    "optim.eps",
    "run.checkpoint_minutes",
    "run.collapse_ratio",
)
# Beyond these, a number is a slip, and arithmetic with it fails later.
LARGEST, SLOWEST_PACE = 1e15, 1e-6
MAXIMUM = {"engine.num_threads": 4096, "removal.smoothing_lambda": math.inf}
REQUIRED = {
    "data.train": "name a file or a Hub data set of training rows.",
    "data.validation": "name a file of rows that are not in data.train; `tacit data split` makes one.",
    "run.output_dir": "name the folder the run writes to, such as runs/my_run.",
}


def check(config: Config) -> list[str]:
    """Return every fault of a configuration, one line each; an empty list means that it can run."""
    return [
        *_check_single_fields(config),
        *check_column_names(dataclasses.asdict(config.data.columns), "data.columns"),
        *_check_model(config),
        *_check_lora(config),
        *_check_format(config.format),
        *_check_removal_and_schedule(config),
        *_check_adaptive(config.schedule.adaptive),
        *_check_optim(config),
    ]


def _check_single_fields(config: Config) -> Iterator[str]:
    for dotted, remedy in REQUIRED.items():
        if not attrgetter(dotted)(config):
            yield f"{dotted} is not set; {remedy}"
    for dotted, minimum in MINIMUM.items():
        value = attrgetter(dotted)(config)
        if value is not None and not value >= minimum:
            yield f"{dotted} ({value}) must be at least {minimum}; raise it."
    for dotted in POSITIVE:
        value = attrgetter(dotted)(config)
        if value is not None and not value > 0:
            yield f"{dotted} ({value}) must be above 0; raise it."
    for dotted in (*MINIMUM, *POSITIVE):
        value = attrgetter(dotted)(config)
        if value is not None and value > (maximum := MAXIMUM.get(dotted, LARGEST)):
            yield f"{dotted} ({value}) must be at most {maximum:g}; lower it."
    pace = config.schedule.removed_per_epoch
    if 0 < pace < SLOWEST_PACE:
        yield f"schedule.removed_per_epoch ({pace}) must be at least {SLOWEST_PACE}; raise it."
    if any(number < 0 for number in config.run.keep_stages):
        yield f"run.keep_stages ({config.run.keep_stages}) must hold no number below 0; take it out."


def _check_model(config: Config) -> Iterator[str]:
    model = config.model
    if bool(model.name_or_path) == bool(model.from_scratch):
        state = "both are set" if model.name_or_path else "neither is set"
        yield f"model.name_or_path, model.from_scratch: {state}; set the one to finetune, or the other to start afresh."
    if model.from_scratch is not None:
        if "model_type" not in model.from_scratch:
            yield "model.from_scratch has no model_type; name a Transformers architecture, such as gpt2 or llama."
        if not model.tokenizer:
            yield "model.tokenizer is not set; a model from scratch needs one: `words`, or a name or folder."


def _check_lora(config: Config) -> Iterator[str]:
    model, lora = config.model, config.lora
    if lora.rank is None:
        for field in dataclasses.fields(lora):
            value = getattr(lora, field.name)
            if value != getattr(LoraConfig(), field.name):
                yield f"lora.{field.name} ({value}) is set, but lora.rank is not: give a rank, or take it out."
        if model.quantization != "none":
            yield (
                f"model.quantization ({model.quantization}) freezes the model, so it needs adapters: set lora.rank, or "
                "take none."
            )
    if lora.rank is not None and model.from_scratch is not None:
        yield f"lora.rank ({lora.rank}) needs trained weights to stand on: name model.name_or_path, or take it out."
    if model.num_positions is not None and model.from_scratch is not None:
        yield f"model.num_positions ({model.num_positions}) is for a trained model; set it in model.from_scratch."
    if not 0 <= lora.dropout < 1:
        yield f"lora.dropout ({lora.dropout}) must be in [0, 1); correct it."
    if model.quantization != "none" and model.from_scratch is not None:
        yield f"model.quantization ({model.quantization}) needs trained weights: name model.name_or_path."


def check_column_names(names: Mapping[str, str], setting: str) -> Iterator[str]:
    """Yield what is wrong with the names of columns.

    Args:
        names: Field of a row to column.
        setting: What the user knows the names by.
    """
    fields: dict[str, str] = {}
    for name, column in names.items():
        if not column:
            yield f"{setting}.{name} is empty; name a column, or leave it out."
        elif column in fields:
            yield f"{setting}.{name} ({column!r}) is {setting}.{fields[column]} as well; give each a column of its own."
        fields.setdefault(column, name)


def _check_format(row_format: FormatConfig) -> Iterator[str]:
    if "{chat}" in row_format.question and row_format.question != "{chat}":
        yield (
            f"format.question ({row_format.question!r}) must be {{chat}} alone: the chat template writes all that "
            "stands around the question, a first token too; take the rest out."
        )
    for name, slot in (("question", "{question}"), ("cot", "{cot}"), ("answer", "{answer}")):
        template = getattr(row_format, name)
        if template.count(slot) != 1 and not (name == "question" and "{chat}" in template):
            yield f"format.{name} ({template!r}) must hold {slot} exactly once; write it in."
    for field in dataclasses.fields(row_format):
        template = getattr(row_format, field.name)
        if isinstance(template, str) and "{bos}" in template and (field.name, template[:5]) != ("question", "{bos}"):
            yield f"format.{field.name} ({template!r}): {{bos}} can only begin format.question; move it there."
    if not row_format.end:
        yield "format.end is empty, so decoding would never stop; set it to {eos}."


def _check_removal_and_schedule(config: Config) -> Iterator[str]:
    removal, schedule = config.removal, config.schedule
    if removal.keep_positions and removal.side == "right":
        yield "removal.keep_positions (true) needs removal.side left (it is right); change one of the two."
    if removal.keep_positions and removal.unit == "step":
        yield "removal.keep_positions (true) needs removal.unit token (it is step); change one of the two."
    if removal.right_first and (removal.side, removal.unit) != ("left", "token"):
        yield (
            f"removal.right_first ({removal.right_first}) needs removal.side left and removal.unit token (they are "
            f"{removal.side} and {removal.unit}); change them, or leave it out."
        )
    if not 0 <= removal.earlier_share < 1:
        yield f"removal.earlier_share ({removal.earlier_share}) must be a share of the rows in [0, 1); correct it."
    if removal.earlier_from and not removal.earlier_share:
        yield f"removal.earlier_from ({removal.earlier_from}) is for removal.earlier_share, which is 0; leave it out."
    threshold = schedule.remove_all_beyond
    if threshold is not None and schedule.start_removed > threshold:
        yield (
            f"schedule.start_removed ({schedule.start_removed}) must not be above "
            f"schedule.remove_all_beyond ({threshold}); lower it."
        )
    if schedule.kind in ("explicit_cot", "no_cot") and schedule.start_removed:
        yield f"schedule.start_removed ({schedule.start_removed}) must be 0 for kind {schedule.kind}; take it out."
    if schedule.kind == "adaptive" and schedule.adaptive.on_stall == "back" and schedule.max_steps is None:
        yield "schedule.adaptive.on_stall (back) may never end; set schedule.max_steps as well."
    if schedule.final_epochs == 0 and schedule.max_steps is None and schedule.kind in ("explicit_cot", "no_cot"):
        yield f"schedule.final_epochs (0) leaves a run of kind {schedule.kind} without a step; raise it."


def _check_adaptive(adaptive: AdaptiveConfig) -> Iterator[str]:
    if adaptive.loss_threshold is None and adaptive.relative_threshold is None:
        yield "schedule.adaptive: loss_threshold and relative_threshold are both null; set one."
    if adaptive.max_steps < adaptive.min_steps:
        yield (
            f"schedule.adaptive.max_steps ({adaptive.max_steps}) must not be below "
            f"schedule.adaptive.min_steps ({adaptive.min_steps}); raise it."
        )
    if adaptive.max_steps < adaptive.window:
        yield (
            f"schedule.adaptive.max_steps ({adaptive.max_steps}) must not be below "
            f"schedule.adaptive.window ({adaptive.window}), or the running mean never fills; raise it."
        )
    if sorted({*adaptive.stops, 0})[1:] != adaptive.stops:
        yield f"schedule.adaptive.stops ({adaptive.stops}) must be numbers of 1 or more that rise; correct them."
    if adaptive.stops and adaptive.removed_per_stage != 1:
        yield "schedule.adaptive: stops and removed_per_stage both say how far stages lie apart; leave one out."


def _check_optim(config: Config) -> Iterator[str]:
    optim, schedule = config.optim, config.schedule
    if any(not 0 <= beta < 1 for beta in optim.betas):
        yield f"optim.betas ({list(optim.betas)}) must both be in [0, 1); correct them."
    if not 0 <= optim.final_decay <= 1:
        yield f"optim.final_decay ({optim.final_decay}) must be a share of the last stage in [0, 1]; correct it."
    if optim.lr_schedule != "constant" and optim.final_decay:
        yield (
            f"optim.lr_schedule ({optim.lr_schedule}) lowers the learning rate to zero, and optim.final_decay "
            f"({optim.final_decay}) would lower it again; leave one out."
        )
    if optim.lr_schedule != "constant" and schedule.kind == "adaptive" and schedule.max_steps is None:
        yield (
            f"optim.lr_schedule ({optim.lr_schedule}) needs the run's length, which the adaptive schedule does not "
            "know; set schedule.max_steps, or take constant."
        )
    if schedule.max_steps is not None and 0 < schedule.max_steps <= optim.warmup_steps:
        yield (
            f"optim.warmup_steps ({optim.warmup_steps}) must be below schedule.max_steps "
            f"({schedule.max_steps}); lower it."
        )
