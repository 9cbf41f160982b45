"""The figures of a training: loss, accuracy, resets, speed. Each takes runs; without data there is no figure."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.report.analysis import boundaries, kept_evaluation, standing_evaluations, thin
from pipeline.report.figure_style import BOUNDARY, MUTED, TEXT, Look, look, panels
from pipeline.report.resets import Reset
from pipeline.report.run import Row, Run, number
from pipeline.scoring import wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_POINTS = 800  # of a curve: more than a screen can show
MOST_BOUNDARIES = 60  # more lines than that are a grey wall
LEGEND_WIDTH, LEGEND_KEY = 96, 8  # of the panel and of an entry's key, in characters
NamedRuns = Sequence[tuple[str, Run]]


def loss_figure(runs: NamedRuns) -> "Figure | None":
    """Draw the training loss over optimizer steps, and under it the units removed; boundaries and resets are marked."""
    if not any(curve(run.train, "loss") for _, run in runs):
        return None
    figure, (top, bottom) = panels(4.6, (3, 1))
    for i, (name, run) in enumerate(runs):
        style = look(i)
        points = thin(curve(run.train, "loss"), MOST_POINTS)
        _line(top, points, style, name, marker=len(points) == 1)
        bottom.step(*_columns(curve(run.train, "num_removed")), where="post", color=style.colour, linestyle=style.line)
        resets = [row["step"] for row in run.resets]
        if resets:
            heights = [0.97 - 0.05 * i] * len(resets)  # at the top, a row for each run
            top.plot(
                resets,
                heights,
                "|",
                color=style.colour if len(runs) > 1 else MUTED,
                transform=top.get_xaxis_transform(),
                markersize=6,
                label="optimizer reset" if len(runs) == 1 else f"resets of {name}",
            )
    if len(runs) == 1:
        _draw_boundaries([top, bottom], runs[0][1])
    _set_log_scale(top, [loss for _, run in runs for _, loss in curve(run.train, "loss")])
    top.set_ylabel("loss (nats per label token)")
    bottom.set_ylabel("removed")
    bottom.set_xlabel("optimizer step")
    _whole_numbers(bottom)
    draw_legend(top)
    return figure


def accuracy_figure(runs: NamedRuns) -> "Figure | None":
    """Draw the validation accuracy over optimizer steps, with its 95 % interval."""
    if not any(run.evaluations for _, run in runs):
        return None
    figure, (axes,) = panels(3.3)
    for i, (name, run) in enumerate(runs):
        style, points = look(i), curve(run.evaluations, "accuracy", 100)
        if not points:
            continue
        _line(axes, points, style, name, marker=True)
        if len(runs) <= 2:
            bounds = [interval(row) for row in run.evaluations]
            axes.fill_between(
                [step for step, _ in points],
                [100 * low for low, _ in bounds],
                [100 * high for _, high in bounds],
                color=style.colour,
                alpha=0.16,
                linewidth=0,
            )
    if len(runs) == 1:
        _draw_boundaries([axes], runs[0][1])
    _percent(axes, "validation accuracy (%)")
    axes.set_xlabel("optimizer step")
    draw_legend(axes)
    return figure


def removal_figure(runs: NamedRuns) -> "Figure | None":
    """Draw the validation accuracy against the units removed: all of it, and a line through what stands."""
    if not any(run.evaluations for _, run in runs):
        return None
    figure, (axes,) = panels(3.3)
    for i, (name, run) in enumerate(runs):
        style = look(i)
        axes.plot(
            [row["num_removed"] for row in run.evaluations],
            [100 * row["accuracy"] for row in run.evaluations],
            style.marker,
            color=style.colour,
            markerfacecolor="none",
            markersize=4,
            alpha=0.6,
        )
        points = [(row["num_removed"], 100 * row["accuracy"]) for row in standing_evaluations(run)]
        _line(axes, points, style, name, marker=True)
        if kept := kept_evaluation(run):
            axes.plot(
                kept["num_removed"],
                100 * kept["accuracy"],
                "o",
                color=TEXT,
                markerfacecolor="none",
                markersize=12,
                label="model kept",
            )
    _percent(axes, "validation accuracy (%)")
    axes.set_xlabel("CoT units removed")
    axes.margins(x=0.04)
    _whole_numbers(axes, "x")
    draw_legend(axes)
    return figure


def reset_figure(runs: Sequence[tuple[str, Look, Sequence[Reset]]]) -> "Figure | None":
    """Draw for each reset the loss before and at once after it, the updates until it is back, and the moments' norm.

    Args:
        runs: Name, look and resets of each run; those without any are not drawn.
    """
    all_resets = [reset for _, _, resets in runs for reset in resets]
    if not all_resets:
        return None
    several = len(runs) > 1  # then the names alone stand above the panel: marks are explained where one run is drawn
    has_norms = any(reset.moment_norm is not None for reset in all_resets)
    figure, axes = panels(5.4 if has_norms else 4.2, (3, 2, 2)[: 3 if has_norms else 2])
    losses, recovery = axes[:2]
    for name, style, resets in runs:
        if not resets:
            continue
        known = [(r.step, r.loss_before, r.loss_after) for r in resets]
        jumps = [(step, before, after) for step, before, after in known if before is not None and after is not None]
        steps, before, after = ([jump[i] for jump in jumps] for i in range(3))
        losses.vlines(steps, before, after, color=style.colour, linewidth=1.2)
        losses.plot(steps, before, "_", color=style.colour, markersize=9, label=None if several else "last loss before")
        losses.plot(steps, after, style.marker, color=style.colour, label=name if several else "first loss after")
        back = [(reset.step, reset.steps_to_recover) for reset in resets if reset.steps_to_recover is not None]
        open_ends = [(reset.step, reset.num_steps_seen) for reset in resets if reset.steps_to_recover is None]
        if back:  # without points, what is not clipped would reach to the figure's corner
            recovery.vlines([s for s, _ in back], 0, [n for _, n in back], color=style.colour, linewidth=1.2)
            label = None if several else "loss is back"
            recovery.plot(*_columns(back), style.marker, color=style.colour, clip_on=False, label=label)
        if open_ends:
            label = "not back before the next reset or the end"
            recovery.plot(*_columns(open_ends), "x", color=style.colour, label=label)
        if has_norms:
            norms = [(reset.step, reset.moment_norm) for reset in resets if reset.moment_norm is not None]
            _line(axes[2], norms, style, name, marker=True)
    if has_norms:
        axes[2].set_ylabel("moments'\nL2 norm")
        axes[2].set_ylim(bottom=0)  # not before all are drawn: it fixes the top as well
    _set_log_scale(losses, [n for r in all_resets for n in (r.loss_before, r.loss_after) if n is not None])
    losses.set_ylabel("loss before (–)\nand after" if several else "loss")
    recovery.set_ylabel("updates\nuntil back")
    recovery.set_ylim(bottom=0)
    axes[-1].set_xlabel("optimizer step")
    for panel in (losses, recovery):
        panel.margins(y=0.15)
        draw_legend(panel)
    return figure


def speed_figure(runs: NamedRuns) -> "Figure | None":
    """Draw tokens per second, MFU where it is known, and peak memory over optimizer steps."""
    fields = [
        (label, {name: curve(run.train, field, factor) for name, run in runs})
        for label, field, factor in (
            ("tokens / s", "tokens_per_second", 1),
            ("MFU (%)", "mfu", 100),
            ("memory (GiB)", "memory_mib", 1 / 1024),
        )
    ]
    known = [(label, curves) for label, curves in fields if any(curves.values())]
    if not known:
        return None
    figure, axes = panels(1.0 + 1.3 * len(known), (1,) * len(known))
    for panel, (label, curves) in zip(axes, known, strict=True):
        for i, (name, points) in enumerate(curves.items()):
            _line(panel, thin(points, MOST_POINTS), look(i), name, marker=len(points) == 1)
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes[-1].set_xlabel("optimizer step")
    draw_legend(axes[0])
    return figure


def curve(rows: Sequence[Row], field: str, factor: float = 1) -> list[tuple[float, float]]:
    """Return step and value of the rows that have one."""
    return [(row["step"], factor * value) for row in rows if (value := number(row.get(field))) is not None]


def interval(evaluation: Row) -> tuple[float, float]:
    """Return the 95 % interval of an evaluation's accuracy; the accuracy itself where its rows were not counted."""
    accuracy, count = evaluation["accuracy"], number(evaluation.get("num_examples"))
    return wilson_interval(round(accuracy * count), int(count)) if count else (accuracy, accuracy)


def draw_legend(axes: "Axes") -> None:
    """Name each kind of line once, above the panel, where no curve can lie under the names."""
    named: dict[str, Line2D] = {}
    for line in axes.get_lines():
        label = str(line.get_label())
        # Not by matplotlib's own list, which leaves out all names that begin with an underscore.
        if not re.fullmatch(r"_child\d+", label):
            named.setdefault(label, line)
    if not named:
        return
    columns = min(3, len(named), LEGEND_WIDTH // (LEGEND_KEY + max(map(len, named))))
    axes.legend(
        list(named.values()),
        list(named),
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=max(columns, 1),
        handlelength=3.2,
    )


def _line(axes: "Axes", points: Sequence[tuple[float, float]], style: Look, label: str, marker: bool) -> None:
    axes.plot(
        *_columns(points),
        color=style.colour,
        linestyle=style.line,
        marker=style.marker if marker else None,
        markersize=4,
        label=label,
    )


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _draw_boundaries(all_axes: Sequence["Axes"], run: Run) -> None:
    steps = boundaries(run.train)
    if not 0 < len(steps) <= MOST_BOUNDARIES:
        return
    for i, axes in enumerate(all_axes):
        for k, step in enumerate(steps):
            axes.axvline(step, color=BOUNDARY, linewidth=0.8, zorder=0.5, label="stage begins" if i == k == 0 else None)
        axes.grid(visible=False, axis="x")


def _set_log_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Draw small losses as clearly as large ones, where there are both."""
    if min(values, default=0) <= 0 or max(values) < 3 * min(values):
        axes.set_ylim(bottom=0)
        return
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _percent(axes: "Axes", label: str) -> None:
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel(label)


def _whole_numbers(axes: "Axes", axis: str = "y") -> None:
    from matplotlib.ticker import MaxNLocator

    chosen, most = (axes.xaxis, 12) if axis == "x" else (axes.yaxis, 5)
    chosen.set_major_locator(MaxNLocator(integer=True, nbins=most))
