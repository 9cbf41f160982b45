"""The accuracy-speed frontier: operating points by hand, speeds put on one footing, which models of a run count."""

import gc
import io
import json
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import comparison
from pipeline.answer_spec import AnswerSpec
from pipeline.cli.frontier import frontier_table
from pipeline.comparison import compare_in_pairs, frontier_points
from pipeline.config import DataConfig, FormatConfig
from pipeline.errors import UserError
from pipeline.evaluation import Evaluation, Sample
from pipeline.frontier import Frontier, OperatingPoints, Point, operating_points, pareto_front
from pipeline.stage_registry import kept_stages, model_folder, models_of_run, run_of, stage_folder

SPEC = AnswerSpec(FormatConfig(), 0, False, "left", "token", False, 8)


def _points(*latency_and_accuracy: tuple[float, float], first_removed: int = 0) -> list[Point]:
    return [
        Point(f"m{i}", first_removed + i, False, accuracy, 0, 1, (0, 1), 0, latency, 1000 / latency, 1, 1)
        for i, (latency, accuracy) in enumerate(latency_and_accuracy)
    ]


# --- operating points


def test_operating_points_by_hand() -> None:
    # Removing made it worse, then better, then much faster at some cost.
    points = _points((100, 0.99), (80, 0.70), (60, 0.985), (40, 0.98), (20, 0.97), (10, 0.50))
    chosen = operating_points(points)
    assert chosen.most_accurate == 0
    assert chosen.fastest_within_one_point == 3  # 0.98 is 0.99 less one point
    # The front is 5, 4, 3, 2, 0. Scaled, 4 is (1/9, 47/49), 3 (1/3, 48/49), 2 (5/9, 97/98): 4 is farthest above y = x.
    assert pareto_front(points) == [5, 4, 3, 2, 0]
    assert chosen.knee == 4


def test_of_equally_accurate_points_the_faster_counts() -> None:
    points = _points((100, 1.0), (50, 1.0), (70, 1.0))
    assert operating_points(points) == OperatingPoints(most_accurate=1, fastest_within_one_point=1, knee=None)
    assert pareto_front(points) == [1]


def test_points_that_are_alike_count_once() -> None:
    assert pareto_front(_points((50, 0.5), (50, 0.5), (50, 0.9), (60, 0.9))) == [2]


def test_without_explicit_cot_nothing_is_within_one_point_of_it() -> None:
    assert operating_points(_points((100, 1.0), (50, 1.0), first_removed=2)).fastest_within_one_point is None


@pytest.mark.parametrize(
    ("front", "knee"),
    [
        ([(10, 0.5), (20, 0.9)], None),  # two points have nothing between them
        ([(10, 0.2), (20, 0.8), (40, 0.9), (50, 1.0)], 1),  # above the chord by 0.5 and 0.125
        ([(10, 0.2), (30, 0.5), (40, 0.9), (50, 1.0)], 2),  # by -0.125 and 0.125
        ([(10, 0.2), (40, 0.4), (50, 1.0)], None),  # bends inwards: nothing is gained there
        ([(10, 0.0), (20, 0.5), (30, 1.0)], None),  # a straight line
    ],
)
def test_knee(front: list[tuple[float, float]], knee: int | None) -> None:
    assert operating_points(_points(*front)).knee == knee


def test_json_has_points_and_their_numbers() -> None:
    written = json.loads(json.dumps(Frontier("t.txt", tuple(_points((100, 0.99), (10, 0.5)))).to_json()))
    assert written.keys() == {"data", "num_examples", "points", "operating_points"}
    assert written["operating_points"] == {"most_accurate": 0, "fastest_within_one_point": 0, "knee": None}
    assert written["points"][1].keys() == {
        "model", "num_removed", "removes_all", "accuracy", "num_correct", "num_examples", "confidence_interval",
        "cot_tokens", "latency_ms", "examples_per_second", "examples_per_second_batched", "speedup",
    }  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits(width: int) -> None:
    points = _points((1234.5, 1.0), (10, 0.987), (1, 0.985))
    stream = io.StringIO()
    Console(file=stream, width=width).print(frontier_table(Frontier("t.txt", tuple(points))))
    printed = stream.getvalue()
    assert all(figure in printed for figure in ("1234.5", "98.7 %", "most accurate", "knee"))
    assert max(map(len, printed.splitlines())) <= width


# --- speeds


class _Model:
    pass


@dataclass
class _Fake:
    folder: Path
    model: _Model = field(default_factory=_Model)
    spec: AnswerSpec = SPEC

    def evaluate(self, batch_size: int, *, verify: bool) -> Evaluation:
        assert (batch_size, verify) == (4, False)
        return Evaluation((Sample(0, "1", "2", "2", True, 3, 4, ""),))


@pytest.fixture
def most_in_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let models be made of nothing; collect how many are in memory whenever one has been loaded."""
    alive: weakref.WeakSet[_Model] = weakref.WeakSet()
    counts = []

    def load(folder: Path, data: DataConfig, **_: object) -> _Fake:
        contestant = _Fake(folder)
        alive.add(contestant.model)
        gc.collect()
        counts.append(len(alive))
        return contestant

    # The machine is half as fast while the second pair is timed.
    speed_of = {"explicit": 100.0, "a": 200.0, "b": 400.0}
    slowness = iter([1.0, 0.5, 1.0])

    def time_in_turns(contestants: list[_Fake], num_timed: int) -> list[float]:
        assert num_timed == 7
        factor = next(slowness)
        return [factor * speed_of[contestant.folder.name] for contestant in contestants]

    monkeypatch.setattr(comparison, "load_contestant", load)
    monkeypatch.setattr(comparison, "speeds_at_batch_one", time_in_turns)
    return counts


SETTINGS = {"num_examples": None, "num_timed": 7, "batch_size": 4, "verify": False}
FOLDERS = [Path("explicit"), Path("a"), Path("b")]


def test_a_slow_moment_weighs_on_all_models_alike(most_in_memory: list[int]) -> None:
    reports = compare_in_pairs(FOLDERS, DataConfig(), **SETTINGS)
    # Beside the first model a is twice and b four times as fast. The first takes 10 ms, then 20 ms: 15 ms.
    points = frontier_points(reports)
    assert [point.speedup for point in points] == pytest.approx([1, 2, 4])
    assert [point.latency_ms for point in points] == pytest.approx([15, 7.5, 3.75])
    assert [point.examples_per_second for point in points] == pytest.approx([1000 / 15, 2000 / 15, 4000 / 15])
    assert (points[1].model, points[1].accuracy, points[1].cot_tokens) == ("a", 1.0, 3)
    assert max(most_in_memory) == 2


def test_one_at_a_time_holds_one_model_and_feels_the_slow_moment(most_in_memory: list[int]) -> None:
    points = frontier_points(compare_in_pairs(FOLDERS, DataConfig(), one_at_a_time=True, **SETTINGS))
    assert [point.latency_ms for point in points] == pytest.approx([10, 10, 2.5])
    assert max(most_in_memory) == 1


def test_a_single_model_is_timed_alone(most_in_memory: list[int]) -> None:
    (point,) = frontier_points(compare_in_pairs(FOLDERS[:1], DataConfig(), **SETTINGS))
    assert (point.latency_ms, point.speedup) == (pytest.approx(10), 1)
    assert most_in_memory == [1]


# --- the models of a run


def _keep(folder: Path, num_removed: int) -> None:
    folder.mkdir(parents=True)
    AnswerSpec(FormatConfig(), num_removed, num_removed == 4, "left", "token", False, 8).save(folder)


def test_the_model_stands_for_its_number_of_removed_units(tmp_path: Path) -> None:
    for number in (4, 0, 2, 12345):
        _keep(stage_folder(tmp_path, number), number)
    (tmp_path / "stages" / ".removed_0003.incomplete").mkdir()
    (tmp_path / "stages" / "removed_0006").mkdir()  # holds no model
    assert list(kept_stages(tmp_path)) == [0, 2, 4, 12345]
    assert models_of_run(tmp_path)[-1] == tmp_path / "stages" / "removed_12345"
    _keep(tmp_path / "model", 4)
    assert [folder.name for folder in models_of_run(tmp_path)] == [
        "removed_0000", "removed_0002", "model", "removed_12345",
    ]  # fmt: skip


def test_a_run_without_kept_stages_is_refused(tmp_path: Path) -> None:
    _keep(tmp_path / "model", 4)
    with pytest.raises(UserError, match=r"run\.keep_stages.*run\.keep_every"):
        models_of_run(tmp_path)


def test_a_run_stands_for_its_model(tmp_path: Path) -> None:
    _keep(tmp_path / "model", 4)
    _keep(tmp_path / "stages" / "removed_0000", 0)
    with pytest.raises(UserError, match="holds no model"):
        model_folder(tmp_path)
    assert run_of(tmp_path / "model") is None
    (tmp_path / "recipe.yaml").touch()
    assert model_folder(tmp_path) == tmp_path / "model"
    assert model_folder(tmp_path / "model") == tmp_path / "model"
    assert run_of(tmp_path / "model") == run_of(tmp_path / "stages" / "removed_0000") == tmp_path
