"""What the ranks run; each function returns plain values for the test to compare."""

import errno
import json
import logging
import math
import os
import shutil
import signal
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.integrations import HfDeepSpeedConfig

import pipeline.engine.engine as engine_module
from pipeline.batching import IGNORE_INDEX, MicroBatch, StepBatch, collate
from pipeline.config import Config, EngineConfig, OptimConfig
from pipeline.controller import StageController
from pipeline.ds_config import fill_ds_config, load_ds_config
from pipeline.engine import Engine, StepMetrics, build_engine
from pipeline.errors import Interrupted, RunError
from pipeline.layout import Row, SequenceLayout
from pipeline.loss import token_loss_sum
from pipeline.micro_batches import plan_micro_batches
from pipeline.modeling import build_model, build_tokenizer
from pipeline.preparation import load_data, prepare_engine
from pipeline.ranks import barrier, rank, world_size
from pipeline.train import train

LAYOUT = SequenceLayout(first_separator_ids=(5,), second_separator_ids=(6,), end_id=1, pad_id=0)
MOMENTS = ("exp_avg", "exp_avg_sq")
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1)


def tiny_model() -> GPT2LMHeadModel:
    """Return a GPT-2 with dropout off and weights of a fixed seed."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    special = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **special, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


def tiny_engine(ds_config: str, precision: str, optim: OptimConfig = OPTIM, seed: int = 0) -> Engine:
    """Put the tiny model under DeepSpeed."""
    config = EngineConfig(deepspeed=f"ds_configs/{ds_config}.json", precision=precision)  # type: ignore[arg-type]
    return build_engine(tiny_model, 16, config, optim, seed, partitions_on_load=False)


def tiny_batch(micro_batch_tokens: int) -> StepBatch:
    """Return this rank's share of seven rows of unequal length; dropout is off, so the step plays no part."""
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in (6, 7, 9, 12, 15, 20, 25):
        ids = torch.randint(7, 31, (length,), generator=generator).numpy()
        rows.append(Row(ids, torch.arange(length).numpy(), label_start=4))
    lengths = [len(row.input_ids) for row in rows]
    plan = plan_micro_batches(lengths, world_size(), micro_batch_tokens)[rank()]
    return StepBatch(
        0,
        [collate([rows[i] for i in positions], LAYOUT) for positions in plan],
        num_label_tokens=sum(length - 4 for length in lengths),
        row_numbers=tuple(range(len(rows))),
        num_tokens=sum(lengths),
        sum_of_squares=sum(length**2 for length in lengths),
    )


def losses(ds_config: str, precision: str, micro_batch_tokens: int, optim: OptimConfig = OPTIM) -> list[float]:
    """Train five steps and return the losses."""
    engine = tiny_engine(ds_config, precision, optim)
    return [engine.train_step(tiny_batch(micro_batch_tokens), 1e-2).loss for _ in range(5)]


def plain_losses(optim: OptimConfig) -> list[float]:
    """Do as ``losses`` in plain PyTorch, on one rank's CPU."""
    model, batch = tiny_model().train(), tiny_batch(1000)
    settings = {"betas": optim.betas, "eps": optim.eps, "weight_decay": optim.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **settings)
    found = []
    for _ in range(5):
        sums = [token_loss_sum(model, part, torch.device("cpu"))[0] for part in batch.micro_batches]
        loss = sum(sums) / batch.num_label_tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def moment_norms(ds_config: str) -> tuple[float, float]:
    """Train three steps and return the norms of the moments."""
    engine = tiny_engine(ds_config, "fp32")
    for _ in range(3):
        engine.train_step(tiny_batch(1000), 1e-2)
    return engine.moment_norms()


def grad_norms(ds_config: str) -> list[float]:
    """Train three steps and return the gradient norms before clipping."""
    engine = tiny_engine(ds_config, "fp32")
    return [engine.train_step(tiny_batch(1000), 1e-2).grad_norm for _ in range(3)]


def reset(ds_config: str, precision: str) -> dict[str, Any]:
    """Train, reset, train one step more; return what a reset must and must not change, on this rank."""
    engine = tiny_engine(ds_config, precision)
    for _ in range(3):
        engine.train_step(tiny_batch(1000), 1e-2)
    before = [weight.detach().clone() for weight, _ in engine.optimizer_state()]
    moments_before = max(float(state["exp_avg"].abs().max()) for _, state in engine.optimizer_state())

    engine.reset_optimizer_state()
    zeroed = all(not state[name].any() for _, state in engine.optimizer_state() for name in ("exp_avg", "exp_avg_sq"))
    steps = [float(state["step"]) for _, state in engine.optimizer_state()]
    unchanged = all(torch.equal(a, b) for a, (b, _) in zip(before, engine.optimizer_state(), strict=True))

    engine.train_step(tiny_batch(1000), 1e-2)
    worst = 0.0
    for (weight, state), old in zip(engine.optimizer_state(), before, strict=True):
        # After one step from zero moments the first moment is (1 - beta1) times the gradient.
        fresh = torch.nn.Parameter(old.clone())
        fresh.grad = (state["exp_avg"] / (1 - OPTIM.betas[0])).to(fresh.dtype)
        torch.optim.AdamW([fresh], lr=1e-2, betas=OPTIM.betas, eps=OPTIM.eps, weight_decay=OPTIM.weight_decay).step()
        worst = max(worst, float((weight - fresh).abs().max()))
    return {
        "moments_before": moments_before,
        "zeroed": zeroed,
        "steps": steps,
        "unchanged": unchanged,
        "dtypes": {str(weight.dtype) for weight in before},
        "difference_from_fresh": worst,
    }


def gathered_equals_exported(ds_config: str) -> bool:
    """Whether the weights that generate and the weights that are saved are the same, and training goes on after."""
    engine = tiny_engine(ds_config, "fp32")
    engine.train_step(tiny_batch(1000), 1e-2)
    with engine.gathered() as model:
        seen = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    exported = engine.gathered_weights()
    engine.train_step(tiny_batch(1000), 1e-2)
    return rank() != 0 or all(torch.equal(seen[name], exported[name]) for name in seen)


def run_training(config: Config, resume: bool) -> list[dict[str, Any]]:
    """Train a recipe and return its metrics."""
    train(config, resume=resume)
    lines = (Path(config.run.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def warnings_of_training(config: Config) -> list[str]:
    """Train a recipe and return what it warned of on this rank."""
    handler = BufferingHandler(capacity=1000)
    handler.setLevel(logging.WARNING)
    logging.getLogger("pipeline").addHandler(handler)
    try:
        train(config)
    finally:
        logging.getLogger("pipeline").removeHandler(handler)
    return [record.getMessage() for record in handler.buffer]


def run_cut_and_resume(config: Config, step: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train a recipe, take away the checkpoints after ``step``, resume; return the metrics of both."""
    whole = run_training(config, False)
    if rank() == 0:
        for path in (Path(config.run.output_dir) / "checkpoints").glob("step_*"):
            if path.name > f"step_{step:08d}":
                shutil.rmtree(path)
    barrier()
    return whole, run_training(config, True)


def reset_with_adapters(config: Config) -> dict[str, Any]:
    """Train adapters, reset, train one step more; return what a reset must and must not change, on this rank."""
    controller, engine = _controller(config)
    _, batches = next(controller.stages())
    batch = next(iter(batches))
    weights = {name: weight.clone() for name, weight in _gathered(engine).items()}
    first = engine.train_step(batch, 1e-3)
    after_first = _gathered(engine)
    moments = [
        tensor
        for _, state in engine.optimizer_state()
        for name, tensor in state.items()
        if name in (*MOMENTS, "state1", "state2", "absmax1", "absmax2")
    ]
    before = max(float(moment.float().abs().max()) for moment in moments)
    engine.reset_optimizer_state()
    after_reset = _gathered(engine)
    steps = [float(state["step"]) for _, state in engine.optimizer_state()]
    zeroed = not any(moment.any() for moment in moments)
    # From the same weights and a fresh optimizer the same batch makes the same step as the run's first.
    engine.train_step(batch, 1e-3)
    second = _gathered(engine)
    first_change = {name: after_first[name] - weights[name] for name in weights}
    second_change = {name: second[name] - after_reset[name] for name in weights}
    adapters = [name for name in weights if "lora_" in name]
    return {
        "loss": first.loss,
        "moments_before": before,
        "moment_dtypes": {str(moment.dtype) for moment in moments},
        "zeroed": zeroed,
        "steps": steps,
        "weights_unchanged": all(torch.equal(after_first[name], after_reset[name]) for name in weights),
        "base_unchanged": all(torch.equal(weights[name], second[name]) for name in weights if name not in adapters),
        # AdamW's first step moves each weight by lr, whatever the gradient's size; a later one does not.
        "same_as_fresh": all(
            float(change[name].abs().max()) <= 1.011e-3 for change in (first_change, second_change) for name in adapters
        )
        and max(float(second_change[name].abs().max()) for name in adapters) > 0.99e-3,
    }


def _gathered(engine: Engine) -> dict[str, torch.Tensor]:
    with engine.gathered() as model:
        return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def weights_held_after_loading(config: Config) -> dict[str, int]:
    """Return the number of weights of the model, and of those that this rank holds right after loading."""
    tokenizer = build_tokenizer(config.model)
    engine_config = fill_ds_config(load_ds_config(config.engine), config.engine, config.optim, 16, has_gpu=False)
    keep_alive = HfDeepSpeedConfig(engine_config)
    model = build_model(config.model, config.lora, tokenizer, 40, 1, torch.float32, 0)
    del keep_alive
    parameters = list(model.parameters())
    return {
        "whole": sum(parameter.ds_numel for parameter in parameters),
        "held": sum(parameter.ds_tensor.numel() for parameter in parameters),
    }


def stages_by_step(config: Config) -> list[tuple[int, int]]:
    """Train a recipe without evaluation; return (stage, number removed) of each step as this rank saw it."""
    controller, engine = _controller(config)
    seen = []
    for stage, batches in controller.stages():
        for batch in batches:
            controller.after_step(engine.train_step(batch, 1e-3))
            seen.append((stage.index, stage.num_removed))
    return seen


def stage_after_different_losses(config: Config) -> int:
    """Tell rank 0 of a low loss and the other ranks of a high one; return the number of units removed next."""
    controller, _ = _controller(config)
    next(controller.stages())
    controller.after_step(StepMetrics(loss=0.5 if rank() == 0 else 5.0, token_accuracy=0.0, grad_norm=0.0))
    return controller.state()["adaptive"]["stage"]["num_removed"]


def rows_by_step(config: Config) -> list[list[tuple[int, ...]]]:
    """Return the rows this rank trains on at each step, without training."""
    controller, _ = _controller(config)
    return [
        [row for micro_batch in batch.micro_batches for row in _label_rows(micro_batch)]
        for _, batches in controller.stages()
        for batch in _without_training(controller, batches)
    ]


def _controller(config: Config) -> tuple[StageController, Engine]:
    tokenizer = build_tokenizer(config.model)
    examples, validation = load_data(config, tokenizer)
    engine = prepare_engine(config, tokenizer, examples, validation)
    return StageController(config, examples, engine), engine


def _without_training(controller: StageController, batches: Any) -> Any:
    for batch in batches:
        yield batch
        controller.step += 1


def _label_rows(micro_batch: MicroBatch) -> list[tuple[int, ...]]:
    rows = [
        tuple(ids[mask.bool()].tolist())
        for ids, mask in zip(micro_batch.input_ids, micro_batch.attention_mask, strict=True)
    ]
    carries = (micro_batch.labels != IGNORE_INDEX).any(-1).tolist()
    return [row for row, has_labels in zip(rows, carries, strict=True) if has_labels]


def run_with_faulty_steps(config: Config, steps: list[int]) -> dict[str, Any]:
    """Train a recipe in which the loss of some steps, counted from 1, is NaN on the last rank alone.

    Returns:
        The metrics, what ended the run early, and whether each faulty step left weights and moments as they were.
    """
    unchanged = []

    class Faulty(Engine):
        def train_step(self, batch: StepBatch, learning_rate: float) -> StepMetrics:
            is_faulty = batch.step + 1 in steps
            before = _trained_state(self) if is_faulty else []
            with pytest.MonkeyPatch.context() as patch:
                if is_faulty and rank() == world_size() - 1:
                    patch.setattr(engine_module, "token_loss_sum", _nan_loss)
                metrics = super().train_step(batch, learning_rate)
            if is_faulty:
                after = _trained_state(self)
                unchanged.append(
                    len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
                )
            return metrics

    fault = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.engine.build.Engine", Faulty)
        try:
            train(config)
        except RunError as error:
            fault = str(error)
    lines = (Path(config.run.output_dir) / "metrics.jsonl").read_text().splitlines()
    return {"rows": [json.loads(line) for line in lines], "fault": fault, "unchanged": unchanged}


def _nan_loss(*arguments: Any, **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    loss, num_correct = token_loss_sum(*arguments, **settings)
    return loss * math.nan, num_correct


def _trained_state(engine: Engine) -> list[torch.Tensor]:
    state = engine.optimizer_state()
    return [tensor.clone() for weight, moments in state for tensor in (weight.detach(), *moments.values())]


def run_until_asked(config: Config, asked_rank: int, step: int) -> str:
    """Train a recipe in which one rank gets SIGUSR1 during a step; return what ended the run."""

    class Asked(Engine):
        def train_step(self, batch: StepBatch, learning_rate: float) -> StepMetrics:
            if batch.step + 1 == step and rank() == asked_rank:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().train_step(batch, learning_rate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.engine.build.Engine", Asked)
        try:
            train(config)
        except Interrupted as stop:
            return str(stop)
    return ""


def save_with_a_full_disk(config: Config, full_rank: int) -> str:
    """Train a recipe in which one rank cannot write its part of the second checkpoint; return what ended the run."""
    with pytest.MonkeyPatch.context() as patch:
        saves = []

        def save(state: Any, file: Any) -> None:
            saves.append(file)
            if rank() == full_rank and "00000001" not in file.name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            torch_save(state, file)

        torch_save = torch.save
        patch.setattr(torch, "save", save)
        try:
            train(config)
        except RunError as error:
            return str(error)
    return ""
