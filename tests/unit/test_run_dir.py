"""A run directory is one run's, and what a run starts from is never deleted or written over."""

from pathlib import Path

import pytest

from pipeline.engine import init_distributed
from pipeline.errors import UserError
from pipeline.run_dir import check_run_dir, clear_run_dir, locked
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def _one_rank() -> None:
    init_distributed()


def fill(run_dir: Path) -> Path:
    stage = run_dir / "stages" / "removed_0002"
    for folder in (stage, *(run_dir / name for name in ("model", "base_40_abc", "report_figures", "notes"))):
        folder.mkdir(parents=True)
    (run_dir / "metrics.jsonl").touch()
    return stage


def test_what_an_earlier_run_wrote_goes_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "run")
    clear_run_dir(tmp_path / "run", tmp_path / "run" / "base_40_abc")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["base_40_abc", "notes"]
    clear_run_dir(tmp_path / "run", tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes"]


def test_what_is_only_called_like_an_extended_model_stays(tmp_path: Path) -> None:
    fill(tmp_path / "run")
    mine = [tmp_path / "run" / name for name in ("base_data", "base_notes.txt", "base_40_abc")]
    mine[0].mkdir()
    mine[1].touch()
    elsewhere = tmp_path / "link"
    elsewhere.symlink_to(mine[2])  # the base, by another name
    clear_run_dir(tmp_path / "run", elsewhere)
    assert all(path.exists() for path in mine)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ("data__train", "model/train.txt"),
        ("data__validation", "samples.jsonl"),
        ("model__name_or_path", "stages/removed_0002"),
        ("model__tokenizer", "model"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_run_reads_does_not_lie_where_it_writes(
    tmp_path: Path, setting: str, place: str, overwrite: bool
) -> None:
    run_dir = tmp_path / "run"
    scratch = {"model__from_scratch": None} if setting == "model__name_or_path" else {}
    config = tiny_config(tmp_path, **scratch, **{setting: str(run_dir / place)})
    with pytest.raises(UserError, match=rf"{setting.replace('__', '.')} \(.*{place}\) lies in run.output_dir"):
        check_run_dir(run_dir, config, resume=False, overwrite=overwrite)


@pytest.mark.parametrize("name", ["model/precious.txt", "samples.jsonl"])
def test_a_folder_with_other_files_of_those_names_is_not_taken_unasked(tmp_path: Path, name: str) -> None:
    config, run_dir = tiny_config(tmp_path), tmp_path / "run"
    (run_dir / name).parent.mkdir(parents=True)
    (run_dir / name).touch()
    (run_dir / "notes.txt").touch()  # what no run writes may lie there
    with pytest.raises(UserError, match=rf"holds {name.split('/')[0]}; add --overwrite"):
        check_run_dir(run_dir, config, resume=False, overwrite=False)
    check_run_dir(run_dir, config, resume=False, overwrite=True)
    (run_dir / name).unlink()


def test_a_folder_that_cannot_be_made_is_told() -> None:
    with pytest.raises(UserError, match=r"run.output_dir \(/proc/x\) cannot be written to \("), locked(Path("/proc/x")):
        pass


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path: Path) -> None:
    config, run_dir = tiny_config(tmp_path), tmp_path / "run"
    fill(run_dir)
    (tmp_path / "recipe.yaml").rename(run_dir / "recipe.yaml")
    check_run_dir(run_dir, config, resume=True, overwrite=False)  # cut before the first checkpoint
    (run_dir / "metrics.jsonl").write_text('{"kind": "checkpoint", "step": 8}\n')
    with pytest.raises(UserError, match=r"--resume: the checkpoints of .* are gone"):
        check_run_dir(run_dir, config, resume=True, overwrite=False)
    (run_dir / "checkpoints" / "step_00000008").mkdir(parents=True)
    check_run_dir(run_dir, config, resume=True, overwrite=False)
