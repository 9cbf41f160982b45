"""What the rows of a run say about its stages. Pure: rows in, plain values out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.frontier import ONE_POINT, ROUNDING
from pipeline.report.run import Row, Run, number

Item = TypeVar("Item")


def boundaries(train: Sequence[Row]) -> list[int]:
    """Return the first step of each stage but the first; a row is written there whatever ``run.log_every`` is."""
    return [
        after["step"]
        for before, after in zip(train, train[1:], strict=False)
        if before.get("stage") != after.get("stage")
    ]


def standing_evaluations(run: Run) -> list[Row]:
    """Return one evaluation for each number of removed units, fewest first: the latest, or that of the model kept.

    An adaptive run can come back to a number: what it could do there first is no longer the model's.
    """
    standing = {row["num_removed"]: row for row in run.evaluations}
    if kept := kept_evaluation(run):
        standing[kept["num_removed"]] = kept
    return [standing[num_removed] for num_removed in sorted(standing)]


def stage_ends(evaluations: Sequence[Row]) -> list[Row]:
    """Return the last evaluation in each stage, in order; a number of removed units can come twice."""
    latest = {row.get("stage"): row for row in evaluations}
    return sorted(latest.values(), key=lambda row: row["step"])


def kept_evaluation(run: Run) -> Row | None:
    """Return the evaluation of the model in ``model/``; None while there is no such model."""
    step = run.model.get("step") if run.model else None
    return next((row for row in run.evaluations if row["step"] == step), None)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The stage at which to stop."""

    num_removed: int
    accuracy: float
    reason: str


def recommend_from_frontier(points: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> Recommendation:
    """Return the fastest stage within one point of explicit CoT; where that is not known, the most accurate.

    Args:
        points: Of ``frontier.json``.
        chosen: Its ``operating_points``.
    """
    index = chosen.get("fastest_within_one_point")
    if index is not None:
        point = points[index]
        reason = (
            f"the fastest whose accuracy is within one point of explicit CoT's, on unseen rows "
            f"({point['speedup']:.1f} times as fast)"
        )
    else:
        point = points[chosen["most_accurate"]]
        reason = (
            "the most accurate on unseen rows; explicit CoT was not measured, so one point less than it is not known"
        )
    return Recommendation(point["num_removed"], point["accuracy"], reason)


def recommend_from_validation(rows: Sequence[Row]) -> Recommendation | None:
    """Return the same by validation rows, CoT tokens written standing for time; None where there is no choice.

    Args:
        rows: One evaluation for each number of removed units, fewest first.
    """
    if len(rows) < 2:
        return None
    if rows[0]["num_removed"] == 0:
        enough = rows[0]["accuracy"] - ONE_POINT - ROUNDING
        near = [row for row in rows if row["accuracy"] >= enough]
        row = min(near, key=lambda row: (_cost(row), -row["num_removed"]))
        reason = "which writes the fewest CoT tokens of those within one point of explicit CoT, on validation rows"
    else:
        row = max(rows, key=lambda row: (row["accuracy"], row["num_removed"]))
        reason = "the most accurate on validation rows; explicit CoT was not evaluated"
    return Recommendation(row["num_removed"], row["accuracy"], reason)


def _cost(row: Row) -> float:
    tokens = number(row.get("cot_tokens"))
    return float("inf") if tokens is None else tokens


def thin(points: Sequence[tuple[float, float]], limit: int) -> list[tuple[float, float]]:
    """Return at most ``limit`` points of a curve, which looks the same: of each stretch the lowest and the highest."""
    if len(points) <= limit:
        return list(points)
    num_stretches = limit // 2
    kept = []
    for i in range(num_stretches):
        stretch = points[i * len(points) // num_stretches : (i + 1) * len(points) // num_stretches]
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items, evenly taken, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]
