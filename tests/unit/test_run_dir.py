"""Starting a run afresh deletes what an earlier one wrote, and never what the new one starts from."""

from pathlib import Path

import pytest

from pipeline.engine import init_distributed
from pipeline.errors import UserError
from pipeline.run_dir import clear_run_dir


def fill(run_dir: Path) -> Path:
    stage = run_dir / "stages" / "removed_0002"
    for folder in (stage, run_dir / "model", run_dir / "base_40_abc", run_dir / "notes"):
        folder.mkdir(parents=True)
    (run_dir / "metrics.jsonl").touch()
    return stage


def test_what_an_earlier_run_wrote_goes_and_nothing_else(tmp_path: Path) -> None:
    init_distributed()
    fill(tmp_path / "run")
    clear_run_dir(tmp_path / "run", tmp_path / "run" / "base_40_abc")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["base_40_abc", "notes"]
    clear_run_dir(tmp_path / "run", tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes"]


def test_a_run_is_not_deleted_under_the_one_that_starts_from_it(tmp_path: Path) -> None:
    stage = fill(tmp_path / "run")
    with pytest.raises(UserError, match=r"model.name_or_path .* lies in run.output_dir .*--overwrite"):
        clear_run_dir(tmp_path / "run", stage)
    assert stage.is_dir() and (tmp_path / "run" / "metrics.jsonl").exists()
