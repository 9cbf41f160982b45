"""The models that lie in a run directory: those of its kept stages, by number of removed units, and the best one."""

import re
from pathlib import Path

from pipeline.answer_spec import FILE_NAME, load_spec
from pipeline.errors import UserError

STAGE_NAME = re.compile(r"removed_([0-9]{4,})")


def stage_folder(run_dir: Path, num_removed: int) -> Path:
    """Return where a run keeps the model of the stage with so many removed units."""
    return run_dir / "stages" / f"removed_{num_removed:04d}"


def kept_stages(run_dir: Path) -> dict[int, Path]:
    """Return the folders of a run's kept stages by their number of removed units, fewest first."""
    found = {}
    for folder in (run_dir / "stages").glob("removed_*"):
        if (match := STAGE_NAME.fullmatch(folder.name)) and (folder / FILE_NAME).is_file():
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


def models_of_run(run_dir: Path) -> list[Path]:
    """Return a model for each number of removed units that a run has kept, fewest first.

    ``model/`` stands for its number, and a stage kept at the same one is left out. ``model/`` is what validation rows
    chose among the models at that number; to show both would invite choosing between them by the rows they are tested
    on.

    Raises:
        UserError: If the run has kept no stage.
    """
    stages = kept_stages(run_dir)
    if not stages:
        raise UserError(
            f"{run_dir}: a run without kept stages; train with run.keep_stages, such as [0, 4, 8], or run.keep_every."
        )
    best = run_dir / "model"
    if (best / FILE_NAME).is_file():
        stages[load_spec(best).num_removed] = best
    return [stages[number] for number in sorted(stages)]


def model_folder(path: Path) -> Path:
    """Return the best model of a run directory; a model's own folder is returned as it is.

    Raises:
        UserError: If there is no model.
    """
    folder = path / "model" if (path / "recipe.yaml").is_file() else path
    if not (folder / FILE_NAME).is_file():
        raise UserError(f"{path}: holds no model; give a run directory that is finished, or a model folder of one.")
    return folder


def run_of(folder: Path) -> Path | None:
    """Return the run directory that a model's folder lies in (``RUN/model`` or ``RUN/stages/removed_0000``), if any."""
    above = (*folder.absolute().parents[:2], *folder.resolve().parents[:2])  # a link may lie in a run, or lead into one
    return next((path for path in above if (path / "recipe.yaml").is_file()), None)
