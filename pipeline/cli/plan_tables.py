"""A plan as tables."""

from dataclasses import fields

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.screen import compact_table, figures, open_screen
from pipeline.config import Config
from pipeline.plan.advice import CONTEXT_BYTES, FRAGMENTATION, GIB, CardAdvice, needs
from pipeline.plan.memory import Memory
from pipeline.plan.plan import Plan
from pipeline.plan.stages import StagePlan

MOST_LINES = 20  # of the stage table
UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds"))


def print_plan(config: Config, plan: Plan) -> None:
    """Print a plan for people."""
    console = open_screen(120)
    trained = f", {plan.num_trained:,} of them trained" if plan.num_trained < plan.num_weights else ""
    console.print(
        f"{plan.num_rows:,} rows in batches of {config.optim.global_batch_size}: {plan.steps_per_epoch:,} optimizer "
        f"steps an epoch. {plan.num_weights:,} weights{trained}."
    )
    console.print(stage_table(plan.stages))
    _print_totals(console, config, plan)
    _print_memory(console, config, plan)


def stage_table(stages: list[StagePlan]) -> Table:
    """Return one line a stage; of many stages the middle ones are taken together."""
    headings = ("removed", "rows with CoT", "mean tokens", "longest", "labels", "optimizer steps", "reset")
    table = compact_table(*figures(*headings))
    groups = _groups(stages)
    for group in groups:
        first, last = group[0], group[-1]
        table.add_row(
            _span(first.num_removed, last.num_removed) + (" (all)" if last.removes_all else ""),
            _span(f"{100 * first.share_with_cot:.1f} %", f"{100 * last.share_with_cot:.1f} %"),
            _span(f"{first.mean_tokens:.1f}", f"{last.mean_tokens:.1f}"),
            _span(first.max_tokens, last.max_tokens),
            _span(f"{first.mean_labels:.1f}", f"{last.mean_labels:.1f}"),
            _steps(group),
            ("each" if len(group) > 1 else "yes") if all(stage.resets_optimizer for stage in group) else "no",
        )
    return table


def _groups(stages: list[StagePlan]) -> list[list[StagePlan]]:
    """Cut the stages into at most ``MOST_LINES`` lines; the first and the last stand alone."""
    middle = stages[1:-1]
    size = -(-len(middle) // (MOST_LINES - 2)) if middle else 1
    chunks = [middle[begin : begin + size] for begin in range(0, len(middle), size)]
    return [stages[:1], *chunks, *([stages[-1:]] if len(stages) > 1 else [])]


def _span(first: object, last: object) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _steps(group: list[StagePlan]) -> str:
    least, most = sum(stage.min_steps for stage in group), sum(stage.max_steps for stage in group)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _print_totals(console: Console, config: Config, plan: Plan) -> None:
    fast, slow = plan.fastest, plan.slowest
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("optimizer steps", _span(f"{fast.steps:,}", f"{slow.steps:,}"))
    table.add_row("tokens, padding not counted", _span(_short(fast.tokens), _short(slow.tokens)))
    table.add_row("of these with loss", _span(_short(fast.label_tokens), _short(slow.label_tokens)))
    table.add_row("FLOPs of training", _span(f"{fast.flops:.3g}", f"{slow.flops:.3g}"))
    table.add_row("time of training steps", _span(_duration(fast.seconds), _duration(slow.seconds)))
    console.print(table)
    if plan.num_gpus - plan.gpus_at_work >= 1:  # less is only a division that leaves a remainder
        console.print(
            f"{plan.num_gpus} GPU are no faster than {plan.gpus_at_work:.3g}: a step has too few rows "
            f"(optim.global_batch_size {config.optim.global_batch_size}) to keep all of them at work.",
            style="yellow",
        )
    console.print(
        f"Time: on {plan.num_gpus} GPU of {plan.tflops:g} TFLOP/s peak at {100 * plan.mfu:g} % of it (--tflops, --mfu; "
        "small models reach far less); without evaluation, checkpoints and loading.",
        style="dim",
    )


def _print_memory(console: Console, config: Config, plan: Plan) -> None:
    unit, name_of_unit = (GIB, "GiB") if plan.peak.total >= GIB else (GIB // 1024, "MiB")
    parts_of_memory = [field.name for field in fields(Memory)]
    table = compact_table("phase", *figures(*parts_of_memory, "sum"), title=f"{name_of_unit} on each GPU")
    for name, memory in plan.phases.items():
        parts = [f"{getattr(memory, part) / unit:.2f}" for part in parts_of_memory]
        table.add_row(name, *parts, f"{memory.total / unit:.2f}", style="bold" if name == plan.peak_phase else None)
    console.print(table)
    batch = plan.micro_batch
    console.print(
        f"Largest micro-batch: {batch.num_rows} rows of {batch.row_length} tokens, {batch.per_step} in a step on each "
        f"of {plan.num_gpus} GPU. Evaluation: {config.evaluation.batch_size} rows decoded together.",
        style="dim",
    )
    if plan.host_bytes:
        console.print(f"Offloaded to the machine's memory: {plan.host_bytes / GIB:.1f} GiB for each GPU.")
    console.print(
        f"Peak {plan.peak.total / unit:.1f} {name_of_unit} ({plan.peak_phase}). A GPU needs "
        f"{needs(plan.peak.total) / GIB:.1f} GiB: with {CONTEXT_BYTES / GIB:g} GiB for CUDA and its libraries and "
        f"{100 * FRAGMENTATION:g} % for fragmentation (both assumed)."
    )
    for card in plan.cards:
        if card.fits:
            console.print(f"{card.gib} GB: ", Text("fits", "green"), _room(plan, card), sep="")
            continue
        more = "; what would:" if card.advice else "."
        console.print(f"{card.gib} GB: ", Text("does not fit", "red"), more, sep="")
        for advice in card.advice:
            host = f", {advice.host_bytes / GIB:.0f} GiB of the machine's memory a GPU" if advice.host_bytes else ""
            console.print(f"    {advice.settings}  (peak {advice.peak_bytes / GIB:.1f} GiB{host})", soft_wrap=True)
        if not card.advice:
            console.print("    No settings that were tried are enough.")


def _room(plan: Plan, card: CardAdvice) -> str:
    if plan.micro_batch.per_step == 1:
        return ""  # all rows of a step are in one micro-batch already
    whole = plan.micro_batch.num_rows * plan.micro_batch.per_step * plan.micro_batch.row_length
    tokens = card.largest_micro_batch_tokens
    what = "would fit: a whole step at once" if tokens == whole else "would fit"
    return f"; up to --engine.micro_batch_tokens {tokens} {what}"


def _short(number: float) -> str:
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def _duration(seconds: float) -> str:
    size, name = next(((size, name) for size, name in UNITS if seconds >= 2 * size), UNITS[-1])
    return f"{seconds / size:.3g} {name}"
