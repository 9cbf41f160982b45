"""What an audit found of one model, as plain figures. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from pipeline.difficulty import Group
from pipeline.scoring import ScoreReport, mcnemar_p_value, wilson_interval

OtherModel = Literal["no_cot", "explicit_cut_off", "explicit"]


@dataclass(frozen=True, slots=True)
class Leak:
    """What was written that is not the answer; every sequence has one entry a row."""

    num_cot_tokens: Sequence[int]
    """Tokens before the second separator."""
    num_tokens_beyond: Sequence[int]
    """Tokens beyond those of the separator and the reference answer, wherever they stand; at least 0."""
    correct: Sequence[bool]

    @property
    def num_rows_with_cot(self) -> int:
        """Rows with a token before the second separator."""
        return sum(number > 0 for number in self.num_cot_tokens)

    @property
    def num_right_rows_beyond(self) -> int:
        """Rows without CoT that are right with more tokens than that takes: where a CoT would hide in the answer."""
        rows = zip(self.correct, self.num_cot_tokens, self.num_tokens_beyond, strict=True)
        return sum(right and not cot and beyond > 0 for right, cot, beyond in rows)

    @property
    def confidence_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share of rows with CoT."""
        return wilson_interval(self.num_rows_with_cot, len(self.correct))

    def to_json(self) -> dict[str, Any]:
        """Return the figures over all rows."""
        return {
            "mean_cot_tokens": mean(self.num_cot_tokens),
            "max_cot_tokens": max(self.num_cot_tokens),
            "num_rows_with_cot": self.num_rows_with_cot,
            "share_with_cot": self.num_rows_with_cot / len(self.correct),
            "confidence_interval": self.confidence_interval,
            "mean_tokens_beyond": mean(self.num_tokens_beyond),
            "num_right_rows_beyond": self.num_right_rows_beyond,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Another model on the same rows."""

    name: OtherModel
    """No CoT from the first step; explicit CoT that must answer at once; explicit CoT that writes it."""
    model: str
    """Its folder."""
    score: ScoreReport
    only_model: int
    """Rows that the audited model alone gets right."""
    only_other: int
    """Rows that the other model alone gets right."""

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided."""
        return mcnemar_p_value(self.only_model, self.only_other)

    def to_json(self) -> dict[str, Any]:
        """Return everything."""
        return {
            "name": self.name,
            "model": self.model,
            **self.score.to_json(),
            "only_model": self.only_model,
            "only_other": self.only_other,
            "p_value": self.p_value,
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What ``audit.json`` holds, the verdict apart."""

    model: str
    data: str
    num_removed: int
    removes_all: bool
    score: ScoreReport
    leak: Leak
    difficulty: dict[str, list[Group]]
    """Groups of rows by property."""
    out_of_distribution: list[Group]
    """Rows unlike those trained on; the value says which."""
    comparisons: list[Comparison]
    num_contaminated: int | None
    """Rows left out because they are training rows too; None if the training rows were not to be had."""
    notes: list[str]
    """What could not be looked at, and why."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "model": self.model,
            "data": self.data,
            "num_removed": self.num_removed,
            "removes_all": self.removes_all,
            **self.score.to_json(),
            "num_contaminated": self.num_contaminated,
            "leak": self.leak.to_json(),
            "difficulty": {name: [group.to_json() for group in groups] for name, groups in self.difficulty.items()},
            "out_of_distribution": [group.to_json() for group in self.out_of_distribution],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "notes": self.notes,
        }
