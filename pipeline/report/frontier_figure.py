"""The accuracy-speed frontier: as `tacit frontier` measured it, or by validation rows with CoT tokens as the cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.frontier import TITLES
from pipeline.report.analysis import recommend_from_frontier, recommend_from_validation, standing_evaluations
from pipeline.report.figure_style import MUTED, TEXT, Look, drawing, look, panels, save_png
from pipeline.report.figures import draw_legend, interval
from pipeline.report.paper import POINT_ACCURACY, POINT_LABEL, POINT_SPEEDUP
from pipeline.report.run import Run, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECOMMENDED = "recommended stop"
# Drawn around a point, so large that one fits into another.
RINGS = {RECOMMENDED: ("o", 15), TITLES["most_accurate"]: ("s", 11), TITLES["knee"]: ("D", 11)}
SPACE_OF_A_NUMBER = 0.035  # of the axis: numbers nearer than that would lie on each other


@dataclass(frozen=True, slots=True)
class _Mark:
    """A point of a frontier as it is drawn."""

    x: float
    accuracy: float
    interval: Sequence[float]
    num_removed: int
    names: tuple[str, ...]
    """What the point is worth choosing for."""


def draw_frontier(frontier: dict[str, Any], path: Path) -> None:
    """Draw one run's frontier to a PNG file; its folder is made.

    Args:
        frontier: What ``frontier.json`` holds.
        path: The file to write.
    """
    with drawing():
        figure = frontier_figure([("stages of the run", look(0), frontier)])
    save_png(figure, path)


def frontier_figure(frontiers: Sequence[tuple[str, Look, dict[str, Any]]]) -> "Figure":
    """Draw accuracy against speed-up at batch size 1, the paper's point beside it.

    Args:
        frontiers: Name and look of the run, and what its ``frontier.json`` holds; at least one.
    """
    figure, (axes,) = panels(4.0)
    all_marks = []
    for name, style, frontier in frontiers:
        points = frontier["points"]
        recommended = recommend_from_frontier(points, frontier["operating_points"]).num_removed
        marks = [
            _Mark(
                point["speedup"],
                point["accuracy"],
                point["confidence_interval"],
                point["num_removed"],
                (*point_names(frontier, k), *([RECOMMENDED] if point["num_removed"] == recommended else [])),
            )
            for k, point in enumerate(points)
        ]
        _draw(axes, style, name, marks)
        all_marks.append(marks)
    axes.plot(POINT_SPEEDUP, 100 * POINT_ACCURACY, "*", color=MUTED, markersize=11, label=POINT_LABEL)
    axes.set_xlabel("speed-up at batch size 1, against the stage with the fewest units removed")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    _finish(axes, "accuracy on unseen rows (%)", all_marks, POINT_ACCURACY)
    return figure


def validation_figure(runs: Sequence[tuple[str, Look, Run]]) -> "Figure | None":
    """Draw validation accuracy against CoT tokens written, fewer to the right, where speed was not measured.

    Args:
        runs: With name and look.
    """
    figure, (axes,) = panels(4.0)
    all_marks = []
    for name, style, run in runs:
        standing = standing_evaluations(run)
        rows = [row for row in standing if number(row.get("cot_tokens")) is not None]
        best = recommend_from_validation(standing)
        marks = [
            _Mark(
                row["cot_tokens"],
                row["accuracy"],
                interval(row),
                row["num_removed"],
                (RECOMMENDED,) if best and best.num_removed == row["num_removed"] else (),
            )
            for row in rows
        ]
        _draw(axes, style, name, marks)
        all_marks.append(marks)
    if not any(all_marks):
        return None
    axes.set_xlabel("CoT tokens written, mean (fewer is cheaper)")
    axes.margins(x=0.06)
    axes.invert_xaxis()
    _finish(axes, "validation accuracy (%)", all_marks)
    return figure


def point_names(frontier: dict[str, Any], k: int) -> tuple[str, ...]:
    """Return what point ``k`` is worth choosing for."""
    return tuple(text for name, text in TITLES.items() if frontier["operating_points"].get(name) == k)


def _draw(axes: "Axes", style: Look, name: str, marks: Sequence[_Mark]) -> None:
    """Draw one run's points, joined in order of the units removed."""
    x, y = [mark.x for mark in marks], [100 * mark.accuracy for mark in marks]
    # Rounding can put an end of the interval past the accuracy by a hair.
    below = [max(0.0, 100 * (mark.accuracy - mark.interval[0])) for mark in marks]
    above = [max(0.0, 100 * (mark.interval[1] - mark.accuracy)) for mark in marks]
    axes.errorbar(x, y, (below, above), fmt="none", ecolor=style.colour, elinewidth=0.9, alpha=0.6)
    axes.plot(x, y, color=style.colour, linestyle=style.line, marker=style.marker, label=name)
    for mark in marks:
        for ring in set(RINGS).intersection(mark.names):
            marker, size = RINGS[ring]
            axes.plot(
                mark.x, 100 * mark.accuracy, marker, color=TEXT, markerfacecolor="none", markersize=size, label=ring
            )


def _number(axes: "Axes", marks: Sequence[_Mark]) -> None:
    """Write the units removed above the points: above those worth choosing first, and never over each other."""
    left, right = axes.get_xlim()
    taken: list[float] = []
    for mark in sorted(marks, key=lambda mark: (not mark.names, mark.x)):
        place = (mark.x - left) / (right - left)
        if all(abs(place - other) > SPACE_OF_A_NUMBER for other in taken):
            taken.append(place)
            axes.annotate(
                str(mark.num_removed),
                (mark.x, 100 * mark.interval[1]),
                xytext=(0, 9 if mark.names else 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
            )


def _finish(axes: "Axes", label: str, marks: Sequence[Sequence[_Mark]], lowest: float = 1.0) -> None:
    """Set the axes, number the points of a single run, and name everything.

    Args:
        axes: Holds all points.
        label: Of the vertical axis.
        marks: The points of each run.
        lowest: Another accuracy that must be seen.
    """
    lowest = min([lowest, *(mark.interval[0] for points in marks for mark in points)])
    height = 100 - 100 * lowest
    axes.set_ylim(max(-3.0, 100 * lowest - 0.3 * height - 2), 102 + 0.1 * height)
    axes.set_ylabel(label)
    if len(marks) == 1:
        _number(axes, marks[0])
    draw_legend(axes)
