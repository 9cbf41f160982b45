"""The accuracy-speed frontier of a run: a point for each number of removed units, and those worth choosing. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

ONE_POINT = 0.01  # of accuracy
TITLES = {
    "most_accurate": "most accurate",
    "fastest_within_one_point": "fastest within one point",
    "knee": "knee",
}
"""What people read of each operating point."""
ROUNDING = 1e-9  # 0.98 is within one point of 0.99, whatever their difference is in binary


@dataclass(frozen=True, slots=True)
class Point:
    """One model on the unseen rows."""

    model: str
    """Its folder."""
    num_removed: int
    removes_all: bool
    accuracy: float
    num_correct: int
    num_examples: int
    confidence_interval: tuple[float, float]
    """Wilson's, 95 %."""
    cot_tokens: float
    """CoT tokens written, mean over rows."""
    latency_ms: float
    """Milliseconds an answer takes at batch size 1."""
    examples_per_second: float
    """At batch size 1."""
    examples_per_second_batched: float
    speedup: float
    """Against the point with the fewest removed units, at batch size 1."""


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """Numbers of points."""

    most_accurate: int
    """Of equals the fastest."""
    fastest_within_one_point: int | None
    """The fastest of those at least as accurate as explicit CoT less one point; None without a point of 0 removed."""
    knee: int | None
    """Where the Pareto front bends most; None where it has fewer than three points."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What ``frontier.json`` holds."""

    data: str
    points: tuple[Point, ...]
    """Fewest removed units first; at least one."""

    @property
    def operating_points(self) -> OperatingPoints:
        """The points worth choosing."""
        return operating_points(self.points)

    def to_json(self) -> dict[str, Any]:
        """Return the points and the numbers of the operating points as plain values."""
        return {
            "data": self.data,
            "num_examples": self.points[0].num_examples,
            "points": [asdict(point) for point in self.points],
            "operating_points": asdict(self.operating_points),
        }


def operating_points(points: Sequence[Point]) -> OperatingPoints:
    """Name the points worth choosing.

    Args:
        points: At least one.
    """
    most_accurate = min(range(len(points)), key=lambda i: (-points[i].accuracy, points[i].latency_ms))
    explicit = next((point for point in points if point.num_removed == 0), None)
    fastest = None
    if explicit is not None:
        enough = explicit.accuracy - ONE_POINT - ROUNDING
        near = [i for i in range(len(points)) if points[i].accuracy >= enough]
        fastest = min(near, key=lambda i: points[i].latency_ms)
    return OperatingPoints(most_accurate, fastest, _knee(points))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Return the points to which no other is both faster and at least as accurate, fastest first.

    Of points alike in both, the first counts.
    """
    by_latency = sorted(range(len(points)), key=lambda i: (points[i].latency_ms, -points[i].accuracy))
    front: list[int] = []
    for i in by_latency:
        if not front or points[i].accuracy > points[front[-1]].accuracy:
            front.append(i)
    return front


def _knee(points: Sequence[Point]) -> int | None:
    """Return the point of the Pareto front that lies farthest from the chord between its ends.

    Latency and accuracy are first scaled to 0..1 over the front, so the chord is the diagonal. Points above it bend
    the front outwards: a little more latency has bought much accuracy there. Where none lies above, there is no knee.

    Source: Satopaa et al., "Finding a 'kneedle' in a haystack", ICDCSW 2011.
    """
    front = pareto_front(points)
    if len(front) < 3:
        return None
    first, last = points[front[0]], points[front[-1]]
    width, height = last.latency_ms - first.latency_ms, last.accuracy - first.accuracy

    def above_chord(i: int) -> float:
        scaled = (points[i].latency_ms - first.latency_ms) / width, (points[i].accuracy - first.accuracy) / height
        return (scaled[1] - scaled[0]) / math.sqrt(2)

    knee = max(front[1:-1], key=above_chord)
    return knee if above_chord(knee) > 0 else None
