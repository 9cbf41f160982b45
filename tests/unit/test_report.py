"""The report's analysis, on rows whose results were worked out by hand; its figures; what it reads."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.errors import UserError
from pipeline.report import draw_frontier
from pipeline.report.analysis import (
    boundaries,
    kept_evaluation,
    recommend_from_frontier,
    recommend_from_validation,
    spread,
    stage_ends,
    standing_evaluations,
    thin,
)
from pipeline.report.figure_style import drawing, look, save_png, to_svg
from pipeline.report.figures import loss_figure, removal_figure, reset_figure
from pipeline.report.frontier_figure import point_names
from pipeline.report.marks import Piece, mark
from pipeline.report.resets import Reset, reset_telemetry
from pipeline.report.run import read_run, run_names
from pipeline.report.samples import sample_questions
from pipeline.report.summary import summarize
from tests.report_run import frontier_of, write_rows, write_run


def train_rows(*values: tuple[int, int, float | None]) -> list[dict[str, Any]]:
    """Return rows of step, removed, loss; each number removed is a stage of its own."""
    return [{"step": step, "stage": removed, "num_removed": removed, "loss": loss} for step, removed, loss in values]


def evaluations(*values: tuple[int, int, int, float, float]) -> list[dict[str, Any]]:
    """Return rows of step, stage, removed, accuracy, CoT tokens."""
    names = ("step", "stage", "num_removed", "accuracy", "cot_tokens")
    return [dict(zip(names, row, strict=True)) for row in values]


# Resets


def test_a_reset_is_set_beside_the_losses_around_it() -> None:
    train = train_rows((1, 0, 2.0), (10, 0, 0.5), (11, 1, 1.5), (20, 1, 0.8), (30, 1, 0.4), (31, 2, 0.9), (40, 2, 0.7))
    resets = [
        {"step": 11, "num_removed": 1, "moment_norm": 3.0, "second_moment_norm": 0.25},
        {"step": 31, "num_removed": 2},
    ]
    first, second = reset_telemetry(train, resets)
    assert (first.removed_before, first.removed_after) == (0, 1)
    assert (first.moment_norm, first.second_moment_norm) == (3.0, 0.25)
    assert (first.loss_before, first.loss_step, first.loss_after, first.bump) == (0.5, 10, 1.5, 1.0)
    assert first.steps_to_recover == 30 - 11
    assert (second.loss_before, second.loss_after, second.moment_norm) == (0.4, 0.9, None)
    assert (second.steps_to_recover, second.num_steps_seen) == (None, 9)


def test_a_recovery_behind_the_next_reset_is_none_and_an_unknown_loss_is_no_bump() -> None:
    train = train_rows((10, 0, 0.5), (11, 1, None), (20, 1, 0.9), (21, 2, 0.4), (30, 2, 0.1))
    first, second = reset_telemetry(train, [{"step": 11, "num_removed": 1}, {"step": 21, "num_removed": 2}])
    assert (first.loss_after, first.bump, first.steps_to_recover, first.num_steps_seen) == (None, None, None, 9)
    assert (second.loss_before, second.bump, second.steps_to_recover) == (0.9, -0.5, 0)


def test_a_reset_at_the_very_end_or_beginning_has_nothing_beside_it() -> None:
    assert reset_telemetry(train_rows((10, 0, 0.5)), []) == []
    (last,) = reset_telemetry(train_rows((10, 0, 0.5)), [{"step": 11, "num_removed": 1}])
    assert (last.loss_before, last.loss_after, last.steps_to_recover, last.num_steps_seen) == (0.5, None, None, 0)
    (first,) = reset_telemetry(train_rows((1, 3, 0.5)), [{"step": 1, "num_removed": 3}])
    assert (first.loss_before, first.removed_before, first.loss_after, first.bump) == (None, None, 0.5, None)


# Stages


def test_boundaries_are_the_first_steps_of_stages_also_of_one_that_goes_back() -> None:
    train = [{"step": step, "stage": stage} for step, stage in ((1, 0), (10, 0), (11, 1), (20, 1), (21, 2), (30, 2))]
    assert boundaries(train) == [11, 21]
    assert boundaries([]) == []


def test_of_a_run_that_went_back_the_latest_evaluation_of_each_number_counts(tmp_path: Path) -> None:
    rows = evaluations((10, 0, 0, 1, 3), (20, 1, 1, 0.2, 2), (30, 2, 0, 0.9, 3), (40, 3, 1, 0.8, 2), (50, 3, 1, 0.7, 2))
    run = replace(read_run(write_run(tmp_path / "run")), evaluations=tuple(rows), model=None)
    assert [(row["num_removed"], row["step"]) for row in standing_evaluations(run)] == [(0, 30), (1, 50)]
    kept = replace(run, model={"num_removed": 1, "removes_all": True, "step": 40})
    assert [(row["num_removed"], row["step"]) for row in standing_evaluations(kept)] == [(0, 30), (1, 40)]
    assert [row["step"] for row in stage_ends(rows)] == [10, 20, 30, 50]


def test_the_model_kept_is_the_one_whose_step_it_tells(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", removed=(0,)))
    rows = tuple(evaluations((20, 0, 0, 0.5, 3), (30, 1, 3, 0.9, 0), (40, 1, 3, 0.7, 0)))
    kept = kept_evaluation(replace(run, evaluations=rows, model={"num_removed": 3, "removes_all": True, "step": 30}))
    assert kept is not None and kept["step"] == 30
    assert kept_evaluation(read_run(write_run(tmp_path / "other", has_model=False))) is None


def test_the_recommended_stage_writes_least_within_one_point_of_explicit_cot() -> None:
    rows = evaluations((10, 0, 0, 0.99, 3), (20, 1, 1, 0.995, 2), (30, 2, 2, 0.98, 1), (40, 3, 3, 0.97, 0))
    best = recommend_from_validation(rows)
    assert best is not None and (best.num_removed, best.accuracy) == (2, 0.98)
    assert "within one point" in best.reason and "validation" in best.reason
    without_explicit = recommend_from_validation(rows[1:])
    assert without_explicit is not None and without_explicit.num_removed == 1
    assert recommend_from_validation(rows[:1]) is None  # one stage is no choice


def test_the_recommended_stage_of_a_frontier_is_its_fastest_within_one_point_or_the_most_accurate() -> None:
    frontier = frontier_of((0, 1, 2, 3))
    best = recommend_from_frontier(frontier["points"], frontier["operating_points"])
    assert best.num_removed == 2 and "3.0 times as fast" in best.reason
    assert point_names(frontier, 2) == ("fastest within one point",)
    chosen = {"most_accurate": 1, "fastest_within_one_point": None, "knee": None}
    assert recommend_from_frontier(frontier["points"], chosen).num_removed == 1


# Curves and answers


def test_a_thinned_curve_keeps_its_extremes() -> None:
    points = [(float(x), 0.0) for x in range(1000)]
    points[501] = (501.0, 7.0)
    points[502] = (502.0, -7.0)
    kept = thin(points, 100)
    assert len(kept) <= 100
    assert {(501.0, 7.0), (502.0, -7.0)} <= set(kept)
    assert kept == sorted(kept)
    assert thin(points[:100], 100) == points[:100]


def test_items_taken_evenly_keep_both_ends() -> None:
    assert spread(range(101), 3) == [0, 50, 100]
    assert spread([1, 2], 3) == [1, 2]


@pytest.mark.parametrize(
    ("prediction", "answer", "pieces"),
    [
        ("8 5 8 0", "8 6 8 0", [("8", "right"), ("5", "wrong"), ("8 0", "right")]),
        ("2 3 1", "1 2 3", [("2 3 1", "wrong")]),  # each digit in its place, though two stand in order
        ("8 6 8", "8 6 8 0", [("8 6 8", "right"), ("0", "missing")]),
        ("8 6 8 0 0", "8 6 8 0", [("8 6 8 0", "right"), ("0", "wrong")]),
        ("", "42", [("42", "missing")]),
        ("417", "427", [("4", "right"), ("1", "wrong"), ("7", "right")]),
        ("12", "1024", [("1", "right"), ("0", "missing"), ("2", "right"), ("4", "missing")]),
        ("9", "1024", [("9", "wrong"), ("024", "missing")]),
    ],
)
def test_wrong_and_missing_pieces_are_found(prediction: str, answer: str, pieces: list[tuple[str, str]]) -> None:
    assert mark(prediction, answer) == [Piece(text, kind) for text, kind in pieces]  # type: ignore[arg-type]


def test_the_questions_shown_are_the_first_and_those_answered_wrongly_most_often(tmp_path: Path) -> None:
    questions = sample_questions(read_run(write_run(tmp_path / "run")))
    # Row 5 is wrong in the stages 1 and 3; no other row is ever wrong.
    assert [question.row for question in questions] == [0, 1, 5]
    assert [(a.num_removed, a.num_cot_tokens, a.is_correct) for a in questions[2].answers] == [
        (0, 3, True),
        (1, 2, False),
        (2, 1, True),
        (3, 0, False),
    ]


# Reading


def test_a_run_is_named_by_its_folder_or_as_much_as_tells_it_apart() -> None:
    assert run_names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert run_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert run_names([Path("/x/a"), Path("/x/a")]) == ["a", "a"]


def test_half_a_last_line_is_passed_over_and_a_broken_one_before_it_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st\n[1]\n{"kind": "train", "step": 5}\n{"kind": "tra')
    run = read_run(folder)
    assert run.num_unreadable == 3
    assert run.last_step == 160


def test_rows_that_a_resumed_run_wrote_again_count_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    before = read_run(folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([*lines, *(line for line in lines if '"reset"' in line)]))
    assert read_run(folder).resets == before.resets
    assert [row["step"] for row in before.resets] == [41, 81, 121]


def test_a_run_is_running_while_it_holds_its_lock(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert not read_run(folder).is_running
    with FileLock(folder / ".lock"):
        assert read_run(folder).is_running
        assert "so far" in summarize("run", read_run(folder)).sentences()[0]
    assert not read_run(folder).is_running


@pytest.mark.parametrize(
    ("name", "content"),
    [("frontier.json", "{"), ("frontier.json", "[]"), ("audit.json", "{}"), ("model/tacit.json", "7")],
)
def test_a_file_that_is_not_what_our_commands_write_is_told(tmp_path: Path, name: str, content: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}: is not what tacit "):
        read_run(folder)


def test_a_frontier_without_points_or_with_points_that_lack_a_field_is_told(tmp_path: Path) -> None:
    folder, frontier = write_run(tmp_path / "run"), frontier_of((0, 1))
    for points in ([], [{"num_removed": 0}]):
        (folder / "frontier.json").write_text(json.dumps({**frontier, "points": points}))
        with pytest.raises(UserError, match=r"frontier\.json: is not what tacit frontier writes"):
            read_run(folder)


def test_a_frontier_that_lacks_a_model_kept_since_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "frontier.json").write_text(json.dumps(frontier_of((0, 1, 2, 3))))
    assert read_run(folder).frontier is not None
    (folder / "stages" / "removed_0009").mkdir(parents=True)
    assert read_run(folder).frontier is None
    assert "has kept further models since; run tacit frontier again" in caplog.text


def test_a_run_of_which_nothing_is_written_yet_has_a_summary(tmp_path: Path) -> None:
    write_rows(tmp_path / "metrics.jsonl", [])
    summary = summarize("run", read_run(tmp_path))
    assert (summary.num_removed, summary.final, summary.recommended) == (0, None, None)
    assert "Nothing has been evaluated yet." in summary.sentences()


# Figures


def test_the_frontier_is_drawn_to_a_png_file_whose_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "frontier.png"
    draw_frontier(frontier_of((0, 1, 2, 3)), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]
    draw_frontier(frontier_of((3,)), path)  # a single point is a frontier too


def test_resets_whose_loss_never_came_back_are_drawn_as_large_as_others(tmp_path: Path) -> None:
    lost = Reset(31, 12, 20, 0.05, 0.0002, 0.007, 1, 1.76, steps_to_recover=None, num_steps_seen=2069)
    for resets in ([lost], [replace(lost, steps_to_recover=200)]):
        with drawing():
            figure = reset_figure([("run", look(0), resets)])
        save_png(figure, tmp_path / "resets.png")
        assert all(axes.get_position().height > 0.1 for axes in figure.axes)


def test_no_point_of_several_runs_is_cut_off_and_each_is_named_once() -> None:
    reset = Reset(31, 12, 20, 0.05, 0.0002, 0.007, 1, 1.76, steps_to_recover=3, num_steps_seen=2069)
    runs = [
        (name, look(i), [replace(reset, moment_norm=norm)]) for i, (name, norm) in enumerate((("a", 1.0), ("b", 9.0)))
    ]
    with drawing():
        figure = reset_figure(runs)
    assert figure is not None
    assert figure.axes[2].get_ylim()[0] == 0 and figure.axes[2].get_ylim()[1] > 9
    legends = [axes.get_legend() for axes in figure.axes]
    assert [[text.get_text() for text in legend.get_texts()] if legend else [] for legend in legends][:2] == [
        ["a", "b"],
        [],
    ]


def test_svg_holds_no_address_no_colour_of_its_own_and_only_its_own_ids(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    with drawing():
        figure = loss_figure([("a <b> & $c$", run)])
    assert figure is not None
    svg = to_svg(figure, "loss", 'what "it" shows')
    assert svg.startswith('<svg viewBox="') and 'role="img" aria-label="what &quot;it&quot; shows"' in svg
    assert "http" not in svg and "a &lt;b&gt; &amp; $c$" in svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert len(ids) == len(set(ids)) and all(name.startswith("loss-") for name in ids)
    used = re.findall(r'(?:url\(|href=")#([^")]*)', svg)
    assert used and set(used) <= set(ids)


def test_every_run_is_named_in_the_legend_whatever_its_name_and_shared_marks_once(tmp_path: Path) -> None:
    runs = [(name, read_run(write_run(tmp_path / name, has_model=name != "_c"))) for name in ("_a", "_b", "_c")]
    with drawing():
        figure = removal_figure(runs)
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert sorted(text.get_text() for text in legend.get_texts()) == ["_a", "_b", "_c", "model kept"]


def test_no_two_of_many_runs_look_alike() -> None:
    looks = [(one.colour, str(one.line), one.marker) for one in map(look, range(36))]
    assert len(set(looks)) == 36
    assert len({line for _, line, _ in looks[:6]}) == len({marker for _, _, marker in looks[:6]}) == 6


def test_the_report_is_imported_without_what_draws_it() -> None:
    """Commands that may draw something import it at their top."""
    code = "import sys, pipeline.report; print([n for n in ('matplotlib', 'jinja2', 'torch') if n in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert finished.stdout == "[]\n"
