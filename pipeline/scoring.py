"""Scores predictions: answer extraction, exact match, confidence interval. Pure Python."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, listed
from pipeline.records.row_error import RowError, type_name
from pipeline.records.rows import decode, parse_json
from pipeline.records.streams import numbered_lines, open_for_reading


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """Accuracy over a set of examples."""

    num_correct: int
    """Exact matches."""
    num_examples: int
    """Examples scored, at least 1."""

    @property
    def accuracy(self) -> float:
        """Exact matches / examples."""
        return self.num_correct / self.num_examples

    @property
    def confidence_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(self.num_correct, self.num_examples)

    def to_json(self) -> dict[str, Any]:
        """Return accuracy, counts and interval."""
        return {
            "accuracy": self.accuracy,
            "num_correct": self.num_correct,
            "num_examples": self.num_examples,
            "confidence_interval": self.confidence_interval,
        }


def extract_answer(text: str) -> str:
    """Return what follows the last ``####`` (the whole text where there is none), without commas and outer blanks.

    Source: arXiv:2405.14838, section 3.
    """
    return text.rpartition("####")[2].replace(",", "").strip()


def is_correct(prediction: str, answer: str) -> bool:
    """Tell whether prediction and answer match exactly once both are extracted."""
    return extract_answer(prediction) == extract_answer(answer)


def wilson_interval(correct: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion.

    Args:
        correct: Successes, 0 to ``total``.
        total: Trials, at least 1.
        z: Standard normal quantile; 1.96 gives 95 %.

    Returns:
        Lower and upper end, both in [0, 1].

    Raises:
        ValueError: If the counts are impossible.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if not 0 <= correct <= total or total < 1:
        raise ValueError(f"correct ({correct}) must lie in 0..total ({total}), and total be at least 1.")
    share, spread = correct / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half_width = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    # Rounding would leave 1e-17 where the end is exactly 0 or 1.
    lower = 0.0 if correct == 0 else centre - half_width
    upper = 1.0 if correct == total else centre + half_width
    return lower, upper


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: whether two models differ on the same rows.

    Were they equally good, each row that one of them alone gets right would be either's with probability 1/2.

    Args:
        only_first: Rows that the first model alone gets right.
        only_second: Rows that the second model alone gets right.

    Returns:
        Twice the binomial tail P(X <= min(only_first, only_second)), X ~ B(only_first + only_second, 1/2), at most 1.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947).
    """
    total = only_first + only_second
    ways = tail = 1
    for i in range(min(only_first, only_second)):
        ways = ways * (total - i) // (i + 1)  # of choosing i + 1 rows
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def score_file(path: Path | str, step: int | None = None) -> ScoreReport:
    """Score JSONL rows with ``prediction`` and ``answer``, both strings.

    Args:
        path: The file. Rows of a run carry the ``step`` of their evaluation as well; rows of
            ``tacit evaluate --samples`` their ``model``; further keys are ignored.
        step: Evaluation to score; None takes all rows, which must then be of one.

    Raises:
        UserError: If the file is missing or holds no rows, or a row is broken, or an answer is empty (an empty
            prediction would pass for correct), or the rows are of several models, or of several evaluations, none of
            which is ``step``.
    """
    correct_of: dict[tuple[str | None, float | None], list[bool]] = {}  # by model and step
    with open_for_reading(Path(path)) as handle:
        for line, raw in numbered_lines(handle):
            try:
                row = _object(parse_json(decode(raw)))
                prediction, answer = _string(row, "prediction"), _string(row, "answer")
                if not extract_answer(answer):
                    raise RowError("empty `answer`; fill it in or delete the row")
                found = _model(row), _step(row)
            except RowError as error:
                raise UserError(f"{path}:{line}: {error}.") from error
            correct_of.setdefault(found, []).append(is_correct(prediction, answer))
    if not correct_of:
        raise UserError(f"{path}: holds no rows; name a JSONL file of rows with `prediction` and `answer`.")
    models = {model for model, _ in correct_of}
    if len(models) > 1:
        raise UserError(
            f"{path}: holds answers of {len(models)} models; score each model's rows in a file of their own."
        )
    found_steps = {found for _, found in correct_of}
    steps = sorted(found for found in found_steps if found is not None)
    if step is None and len(found_steps) > 1:
        others = ", and rows without a `step`" if None in found_steps else ""
        raise UserError(
            f"{path}: holds rows of several evaluations (steps {listed(steps)}{others}); add --step N to score one."
        )
    if step is not None and step not in steps:
        remedy = f"its steps are {listed(steps)}; name one of them" if steps else "none has a `step`; leave it out"
        raise UserError(f"--step ({step}): {path} has no rows of it: {remedy}.")
    correct = [right for (_, found), rows in correct_of.items() if step in (None, found) for right in rows]
    return ScoreReport(sum(correct), len(correct))


def _model(row: dict[str, Any]) -> str | None:
    model = row.get("model")
    return model if isinstance(model, str) else None


def _step(row: dict[str, Any]) -> float | None:
    step = row.get("step")
    if step is None or (isinstance(step, int | float) and not isinstance(step, bool)):
        return step
    raise RowError(f"`step` is {type_name(step)}; it is a number, or left out")


def _object(row: object) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise RowError(f"holds {type_name(row)}; a row is an object with `prediction` and `answer`")
    return row


def _string(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise RowError(f"no `{key}`; a row has `prediction` and `answer`")
    value = row[key]
    if not isinstance(value, str):
        raise RowError(f"`{key}` ({value!r}) is not a string; write it in quotes")
    return value
