"""One run in a few figures and sentences."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from pipeline.report.analysis import (
    Recommendation,
    kept_evaluation,
    recommend_from_frontier,
    recommend_from_validation,
    standing_evaluations,
)
from pipeline.report.figures import curve, interval
from pipeline.report.run import Row, Run, number

SCHEDULES = {
    "fixed": "on a fixed schedule",
    "adaptive": "on the adaptive schedule",
    "explicit_cot": "as a baseline with the whole CoT",
    "no_cot": "as a baseline without CoT",
}


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation on the validation rows."""

    step: int
    num_removed: int
    accuracy: float
    confidence_interval: tuple[float, float]
    num_examples: int | None
    cot_tokens: float | None
    """CoT tokens written, mean over rows."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is most worth knowing about a run; None where it is not known."""

    name: str
    run: Run
    final: Evaluated | None
    """The latest evaluation."""
    kept: Evaluated | None
    """That of the model in ``model/``."""
    recommended: Recommendation | None
    tokens_per_second: float | None
    """Median of the rows."""
    mfu: float | None

    @property
    def num_removed(self) -> int:
        """CoT units removed at the latest step."""
        rows = (*self.run.train, *self.run.evaluations)
        return max(rows, key=lambda row: row["step"])["num_removed"] if rows else 0

    @property
    def unit(self) -> str:
        """What is removed, in the plural."""
        return "CoT steps" if self.run.setting("removal.unit") == "step" else "CoT tokens"

    @property
    def model_text(self) -> str:
        """The model, in words."""
        scratch = self.run.setting("model.from_scratch")
        if isinstance(scratch, dict):
            layers = scratch.get("n_layer") or scratch.get("num_hidden_layers")
            width = scratch.get("n_embd") or scratch.get("hidden_size")
            size = [f"{layers} layer{'' if layers == 1 else 's'}"] if layers else []
            size += [f"width {width}"] if width else []
            text = f"{scratch.get('model_type', 'a model')} from scratch" + (f" ({', '.join(size)})" if size else "")
        else:
            text = str(self.run.setting("model.name_or_path") or "a model")
        rank = self.run.setting("lora.rank")
        return text if rank is None else f"{text}, LoRA of rank {rank}"

    def sentences(self) -> list[str]:
        """Return the run in words."""
        run, kind = self.run, str(self.run.setting("schedule.kind"))
        epoch = number(run.train[-1].get("epoch")) if run.train else None
        epochs = "" if epoch is None else f", {epoch:.3g} epoch{'' if epoch == 1 else 's'}"
        seed = "" if run.setting("run.seed") is None else f" (seed {run.setting('run.seed')})"
        verb = "is being trained" if run.is_running else "was trained"
        text = [
            f"{self.model_text} {verb} on {run.setting('data.train') or 'unnamed rows'} "
            f"{SCHEDULES.get(kind, '')}{seed}: {run.last_step:,} steps so far{epochs}."
        ]
        if not run.is_running:
            text[0] = text[0].replace(" so far", "")
        if kind != "explicit_cot":
            every = ", which is all of them" if run.model and run.model["removes_all"] else ""
            text.append(f"It has {self.num_removed} {self.unit} removed{every}.")
        if self.final:
            low, high = self.final.confidence_interval
            rows = "" if self.final.num_examples is None else f" of {self.final.num_examples:,} rows"
            written = "" if self.final.cot_tokens is None else f", with {self.final.cot_tokens:.1f} CoT tokens written"
            text.append(
                f"The {'latest' if run.is_running else 'final'} validation accuracy is {percent(self.final.accuracy)}"
                f"{rows} (95\u00a0% interval {100 * low:.1f} to {100 * high:.1f}){written}."
            )
        else:
            text.append("Nothing has been evaluated yet.")
        if self.kept:
            text.append(
                f"The model kept, {run.path / 'model'}, is that of step {self.kept.step:,}: "
                f"{percent(self.kept.accuracy)} with {self.kept.num_removed} removed."
            )
        if self.recommended:
            text.append(
                f"Recommended stopping stage: {self.recommended.num_removed} removed "
                f"({percent(self.recommended.accuracy)}), {self.recommended.reason}."
            )
        return text

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values; ``accuracy`` is the latest evaluation's."""
        run, final = self.run, self.final
        return {
            "run": self.name,
            "path": str(run.path),
            "is_running": run.is_running,
            "num_steps": run.last_step,
            "num_removed": self.num_removed,
            "accuracy": final and final.accuracy,
            "confidence_interval": final and final.confidence_interval,
            "cot_tokens": final and final.cot_tokens,
            "final": final and asdict(final),
            "kept": self.kept and asdict(self.kept),
            "recommended": self.recommended and asdict(self.recommended),
            "tokens_per_second": self.tokens_per_second,
            "mfu": self.mfu,
            "num_resets": len(run.resets),
            "num_checkpoints": len(run.checkpoints),
            "num_collapses": len(run.collapses),
            "num_nonfinite": len(run.nonfinite),
        }


def summarize(name: str, run: Run) -> Summary:
    """Return a run's summary."""
    if run.frontier is not None:
        recommended: Recommendation | None = recommend_from_frontier(
            run.frontier["points"], run.frontier["operating_points"]
        )
    else:
        recommended = recommend_from_validation(standing_evaluations(run))
    kept = kept_evaluation(run)
    return Summary(
        name=name,
        run=run,
        final=_evaluated(run.evaluations[-1]) if run.evaluations else None,
        kept=_evaluated(kept) if kept else None,
        recommended=recommended,
        tokens_per_second=_median(run, "tokens_per_second"),
        mfu=_median(run, "mfu"),
    )


def percent(share: float) -> str:
    """Return a share as the house writes it."""
    return f"{100 * share:.1f}\u00a0%"  # the two stay on one line


def _evaluated(row: Row) -> Evaluated:
    count = number(row.get("num_examples"))
    return Evaluated(
        row["step"],
        row["num_removed"],
        row["accuracy"],
        interval(row),
        None if count is None else int(count),
        number(row.get("cot_tokens")),
    )


def _median(run: Run, field: str) -> float | None:
    values = [value for _, value in curve(run.train, field)]
    return median(values) if values else None
