"""The script that reproduces multiplication goes through all it does, in some steps, and goes on where it was cut."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.tiny import ROOT, shell_environment

# Every stage ends at once, and some steps without CoT follow.
SHORT = {"loss_threshold": "100", "window": "1", "min_steps": "1"}
SETTINGS = [text for name, value in SHORT.items() for text in (f"--schedule.adaptive.{name}", value)]
SETTINGS += ["--schedule.final_epochs", "0.001", "--optim.warmup_steps", "0", "--optim.reset_warmup_steps", "0"]
SETTINGS += ["--evaluation.num_examples", "20", "--engine.num_threads", "1"]


TEST_ROWS = {
    "3x3": "3 1 2 * 4 8 4||2 5 8 0 + 0 4 0 7 1 ( 2 9 8 7 1 ) + 0 0 2 5 8 0 #### 2 9 0 3 0 1",
    "4x4": "5 6 6 9 * 0 7 3 2||0 0 0 0 0 + 0 5 5 6 7 6 ( 0 5 5 6 7 6 ) + 0 0 5 9 9 8 2 ( 0 5 0 6 7 5 3 ) "
    "+ 0 0 0 0 3 3 9 1 #### 0 5 0 6 0 9 2 2",
}


@pytest.mark.slow
@pytest.mark.parametrize(("digits", "num_stages", "num_tokens"), [("3x3", 5, 24), ("4x4", 7, 46)])
def test_the_script_trains_compares_and_reports_and_does_nothing_twice(
    tmp_path: Path, digits: str, num_stages: int, num_tokens: int
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / f"{digits}_test.txt").write_text(TEST_ROWS[digits] + "\n")
    command = [str(ROOT / "launchers" / "multiplication.sh"), digits, "0", str(tmp_path), *SETTINGS]
    environment = shell_environment(PUBLISHED=str(published))
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    run = tmp_path / "runs" / f"multiplication_{digits}_seed0"
    ends = {}
    for name in ("", "_no_cot", "_explicit_cot"):
        rows = [
            json.loads(line) for line in (run.with_name(run.name + name) / "metrics.jsonl").read_text().splitlines()
        ]
        ends[name] = rows[-1]["step"], rows[-1]["num_removed"]
    steps = ends[""][0]
    assert ends == {"": (steps, num_tokens), "_no_cot": (steps, num_tokens), "_explicit_cot": (steps, 0)}
    assert len(json.loads((run / "frontier.json").read_text())["points"]) == num_stages
    assert json.loads((run / "audit.json").read_text())["num_examples"] == 1
    assert (run / "report.html").is_file()
    question = TEST_ROWS[digits].split("||")[0]
    assert f"{question}||" not in (tmp_path / "data" / f"multiplication_{digits}" / "train.txt").read_text()

    before = (run / "metrics.jsonl").read_text()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert (run / "metrics.jsonl").read_text() == before
