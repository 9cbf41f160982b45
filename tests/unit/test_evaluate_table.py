"""The table of `tacit evaluate` fits a narrow terminal with every figure whole."""

import io
import re

import pytest
from jsonargparse import Namespace
from rich.console import Console

from pipeline.cli import evaluate
from pipeline.cli.evaluate import comparison_table
from pipeline.comparison import ModelReport
from pipeline.evaluation import Evaluation, Sample


def _report(folder: str, num_correct: int, speed: float) -> ModelReport:
    samples = (Sample(i, "1", "2", "2", i < num_correct, 12, 14, "") for i in range(1000))
    return ModelReport(folder, 0, False, Evaluation(tuple(samples)), speed, 10 * speed)


@pytest.mark.parametrize("width", [80, 100])
def test_no_figure_is_cut_off(width: int) -> None:
    reports = [_report("runs/demo_seed0/stages/removed_0000", 1000, 128.84), _report("runs/demo/model", 987, 385.1)]
    stream = io.StringIO()
    Console(file=stream, width=width).print(comparison_table(reports))
    printed = stream.getvalue()
    for figure in ("100.0 %", "98.7 %", "97.8-99.2", "12.0", "128.8", "385.1", "1.00x", "2.99x", "3851"):
        assert re.search(rf"(^|\s){re.escape(figure)}(\s|$)", printed, re.MULTILINE), figure
    assert max(map(len, printed.splitlines())) <= width


def test_brackets_in_a_path_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    options = Namespace(json=False, data="rows[lr=1]/test.txt", batch_size=8, verify=False)
    evaluate._print(options, [_report("runs/x[/y]/model", 1, 1.0)])
    printed = capsys.readouterr().out
    assert "rows[lr=1]/test.txt" in printed and "x[/y]/model" in printed
