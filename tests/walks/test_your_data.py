"""The walk of docs/your-data.md on the real SmolLM2: scripts and commands are read from the page, and run in order."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.records import read_records
from pipeline.scoring import extract_answer
from tests.tiny import ROOT, shell_environment
from tests.walks.commands import commands_of

PAGE = ROOT / "docs" / "your-data.md"
MAKES_MODEL = "make models/smollm2-135m-instruct"
MODEL = Path(os.environ.get("TACIT_SMOLLM2", ROOT / "models" / "smollm2-135m-instruct"))


def scripts() -> list[str]:
    """Return the two Python scripts of the page: what makes the table, and what asks the exported model."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def run(arguments: list[str], folder: Path) -> str:
    environment = shell_environment(HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT), OMP_NUM_THREADS="2")
    finished = subprocess.run(
        arguments, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, f"{shlex.join(arguments)}\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def test_the_page_shows_a_whole_walk() -> None:
    first, *commands = [command.text for command in commands_of(PAGE)]
    assert first == MAKES_MODEL
    assert [" ".join(command.split()[:2]) for command in commands] == [
        *("python my/make_table.py", "tacit data", "tacit preview", "tacit train", "tacit evaluate", "tacit frontier"),
        *("tacit report", "tacit ask", "tacit export"),
    ]
    assert len(scripts()) == 2


def test_the_table_of_the_page_is_one_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    run([sys.executable, "-c", scripts()[0]], tmp_path)
    names = {"question": "prompt", "cot": "reasoning", "steps": "steps", "answer": "output", "messages": "messages"}
    records = list(read_records(str(tmp_path / "my" / "table.csv"), columns=names))
    assert len(records) == 300 and len({record.question for record in records}) > 280
    assert {len(record.steps) for record in records} == {2, 3}


@pytest.mark.slow
@pytest.mark.skipif(not MODEL.is_dir(), reason=f"{MODEL} is not there: {MAKES_MODEL}")
def test_every_command_of_the_page_works_as_it_stands_there(tmp_path: Path) -> None:
    for name in ("recipes", "ds_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").mkdir()
    (tmp_path / MAKES_MODEL.removeprefix("make ")).symlink_to(MODEL)
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "make_table.py").write_text(scripts()[0])
    printed = {}
    for command in commands_of(PAGE)[1:]:
        arguments = shlex.split(command.text)
        printed[" ".join(arguments[:2])] = run(arguments, tmp_path)

    runs = tmp_path / "runs" / "mine"
    assert "think >" in printed["tacit preview"]  # three tokens
    metrics = [json.loads(line) for line in (runs / "metrics.jsonl").read_text().splitlines()]
    assert {row["num_removed"] for row in metrics if row["kind"] == "train"} == {0, 1, 2, 3}
    assert load_config(runs / "recipe.yaml").format.question == "{chat}"
    assert "removed_0000" in printed["tacit evaluate"]
    assert (runs / "report.html").is_file() and (runs / "frontier.json").is_file()
    assert {path.name for path in (runs / "stages").iterdir()} == {f"removed_000{number}" for number in range(4)}

    # A plain pipeline of Transformers writes what `tacit ask` does.
    (ask,) = (shlex.split(command.text) for command in commands_of(PAGE) if command.text.startswith("tacit ask"))
    asked = json.loads(run([*ask, "--json"], tmp_path))
    assert extract_answer(run([sys.executable, "-c", scripts()[1]], tmp_path)) == asked["answer"]
    assert asked["answer"] in printed["tacit ask"]
