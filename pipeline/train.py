"""A training run, to be read from top to bottom as the algorithm (arXiv:2405.14838)."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from pipeline.checkpoint import load_checkpoint
from pipeline.config import Config
from pipeline.controller import StageController
from pipeline.engine import init_distributed
from pipeline.errors import UserError
from pipeline.examples import contents
from pipeline.guard import Guard
from pipeline.keeper import Keeper
from pipeline.modeling import build_model_config, build_tokenizer
from pipeline.preparation import check_files, check_keep_stages, load_data, make_throughput, prepare_engine
from pipeline.ranks import world_size
from pipeline.recorder import Recorder
from pipeline.requests import Requests
from pipeline.run_dir import check_content, check_run_dir, clear_run_dir, locked
from pipeline.watchdog import Watchdog


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a run ended."""

    model_dir: Path
    num_steps: int
    best_accuracy: float | None
    """Validation accuracy of the model kept, or None if the run ended before its last stage."""
    best_step: int | None


def train(config: Config, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> TrainingResult:
    """Train through every stage.

    Args:
        config: The recipe.
        resume: Go on from the newest checkpoint in the run directory, if there is one.
        overwrite: Delete what an earlier run left in the run directory.
        quiet: Show no progress.

    Raises:
        UserError: If settings, data or model are at fault; nothing of an earlier run is lost then.
        RunError: If the run cannot go on; it can be resumed from its last checkpoint.
        Interrupted: If the run was asked to stop, after it has saved.
    """
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other; leave one out.")
    disable_progress_bar()  # the run shows its own
    init_distributed()
    if config.engine.num_threads is not None:
        torch.set_num_threads(config.engine.num_threads)
    run_dir = Path(config.run.output_dir)
    with ExitStack() as stack:
        stack.enter_context(Watchdog(config.engine.rank_timeout))
        check_run_dir(run_dir, config, resume, overwrite)
        check_files(config)
        tokenizer = build_tokenizer(config.model)
        build_model_config(config.model, tokenizer)  # a model that is not there is told before the data are read
        examples, validation = load_data(config, tokenizer)
        engine = prepare_engine(config, tokenizer, examples, validation)
        controller = StageController(config, examples, engine)
        check_keep_stages(config, controller.longest_cot)

        stack.enter_context(locked(run_dir))
        if overwrite:
            clear_run_dir(run_dir, Path(engine.model.name_or_path))
        saved = load_checkpoint(run_dir / "checkpoints", engine) if resume else None
        if saved:
            check_content(saved["content"], contents(examples, validation))
            controller.restore(saved["step"], saved["controller"])
        throughput = make_throughput(config, tokenizer, engine.device)
        recorder = stack.enter_context(
            Recorder(run_dir, config, throughput, controller.num_removed_at_end, controller.step, quiet)
        )
        requests = stack.enter_context(Requests(run_dir, config.run.checkpoint_minutes))
        guard = Guard(config, engine, controller, recorder, run_dir / "checkpoints")
        keeper = Keeper(run_dir, config, engine, controller, recorder, guard, requests, tokenizer, examples, validation)
        if saved:
            guard.restore(saved["guard"])
            keeper.restore(saved["keeper"])
            recorder.say(f"resumed at step {controller.step}{_other_ranks(saved['world_size'])}")
        elif resume:
            recorder.say(f"no checkpoint in {run_dir} yet: begins with the first step")

        stage = controller.stage
        for stage, batches in controller.stages():
            recorder.begin_stage(controller, stage)
            for batch in batches:
                lr = controller.learning_rate
                metrics = engine.train_step(batch, lr)
                controller.after_step(metrics)
                recorder.step(controller, stage, lr, metrics, batch)
                guard.after_step(stage, metrics, batch)
                keeper.after_step(stage)
            keeper.after_stage(stage)
        keeper.finish(stage)
    return TrainingResult(run_dir / "model", controller.step, keeper.best_accuracy, keeper.best_step)


def _other_ranks(num_before: int) -> str:
    if num_before == world_size():
        return ""
    return (
        f" on {world_size()} ranks, saved by {num_before}: batches, schedule, moments stay; sums are rounded "
        "in another order, and dropout draws other masks"
    )
