"""The models that the page offers: loaded when they are first asked, a few of them kept in memory."""

import json
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pipeline.answer_spec import load_spec
from pipeline.answering import Answer, Answerer
from pipeline.stage_registry import kept_stages, model_folder, models_of_run, run_of
from pipeline.tasks.plain_form import TaskName, plain_form

MOST_IN_MEMORY = 3
NUM_EXAMPLES = 4


class Stages:
    """Models in an order, asked by their numbers from 0.

    Attributes:
        folders: Their folders.
        names: What people read of each.
    """

    def __init__(self, paths: Sequence[Path], task: TaskName = "auto") -> None:
        """Find the models: of a run directory all that it keeps, otherwise the folder's own.

        Raises:
            UserError: If one is not there.
        """
        self.folders = [folder for path in paths for folder in _models_of(path)]
        names = [_name(folder) for folder in self.folders]
        is_clear = len(set(names)) == len(names)
        self.names = (
            names if is_clear else [f"{folder}: {name}" for folder, name in zip(self.folders, names, strict=True)]
        )
        self._task = task
        self._load = lru_cache(maxsize=MOST_IN_MEMORY)(Answerer)
        self._lock = threading.Lock()  # one question at a time: times stay fair, and decoding changes the model

    def answer(self, number: int, question: str) -> Answer:
        """Ask one of the models.

        Raises:
            UserError: If it cannot be loaded, or the question cannot be asked.
        """
        with self._lock:
            return self._load(self.folders[number]).answer(question, self._task)

    def examples(self) -> list[str]:
        """Return the first questions that the first model's run was validated on, as people type them, if known."""
        run = run_of(self.folders[0])
        if run is None:
            return []
        try:
            with run.joinpath("samples.jsonl").open(encoding="utf-8") as file:
                questions = [json.loads(line)["question"] for _, line in zip(range(NUM_EXAMPLES), file, strict=False)]
        except (OSError, ValueError, KeyError):  # none written yet, or a line that a cut run has not ended
            return []
        return [question if self._task == "text" else plain_form(question) for question in dict.fromkeys(questions)]


def _models_of(path: Path) -> list[Path]:
    return models_of_run(path) if kept_stages(path) else [model_folder(path)]


def _name(folder: Path) -> str:
    spec = load_spec(folder)
    amount = "all" if spec.removes_all else str(spec.num_removed)
    unit = "CoT" if spec.removes_all else f"CoT {spec.unit}{'' if spec.num_removed == 1 else 's'}"
    return f"{amount} {unit} removed"
