"""How the same few questions were answered stage after stage."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.analysis import kept_evaluation, spread, stage_ends
from pipeline.report.marks import Piece, mark
from pipeline.report.run import Run

MOST_ANSWERS = 14
NUM_FIRST, NUM_HARDEST = 2, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    step: int
    num_removed: int
    num_cot_tokens: int
    text: str
    """All that was written, CoT included."""
    pieces: Sequence[Piece]
    """The answer in it, against the right one."""
    is_correct: bool
    is_kept: bool
    """Whether it is the answer of the model in ``model/``."""


@dataclass(frozen=True, slots=True)
class Question:
    """A validation row, as it was answered at the end of each stage, and by the model kept."""

    row: int
    question: str
    answer: str
    answers: tuple[Answer, ...]


def sample_questions(run: Run) -> list[Question]:
    """Return the first rows, and of the first twenty those that were answered wrongly most often."""
    kept = kept_evaluation(run)
    shown = [*spread(stage_ends(run.evaluations), MOST_ANSWERS), *([kept] if kept else [])]
    ends = {row["step"]: row["num_removed"] for row in shown}
    asked = [sample for sample in run.samples if sample["step"] in ends]
    num_wrong = Counter({sample["row"]: 0 for sample in asked})
    num_wrong.update(sample["row"] for sample in asked if not sample.get("correct"))
    first = sorted(num_wrong)[:NUM_FIRST]
    hardest = [row for row, count in num_wrong.most_common() if count and row not in first][:NUM_HARDEST]
    return [
        Question(
            row,
            samples[0]["question"],
            samples[0]["answer"],
            tuple(
                Answer(
                    step=sample["step"],
                    num_removed=ends[sample["step"]],
                    num_cot_tokens=sample.get("num_cot_tokens", 0),
                    text=sample["text"],
                    pieces=mark(sample["prediction"], sample["answer"]),
                    is_correct=bool(sample.get("correct")),
                    is_kept=kept is not None and sample["step"] == kept["step"],
                )
                for sample in samples
            ),
        )
        for row in (*first, *hardest)
        if (samples := [sample for sample in asked if sample["row"] == row])
    ]
