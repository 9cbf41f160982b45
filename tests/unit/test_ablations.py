"""The ablations: what is counted as a dip, as learned, how seeds are summed up, and that every variant is a run."""

import pytest

from benchmarks.ablations import RECIPE, VARIANTS, Outcome, dips_of, outcome, table
from pipeline.config import parse_command_line
from pipeline.report.run import Run
from tests.tiny import ROOT


def evaluations(*accuracies: float, removed: int = 0) -> tuple[dict[str, float], ...]:
    return tuple(
        {"step": 250 * (i + 1), "num_removed": removed, "accuracy": accuracy} for i, accuracy in enumerate(accuracies)
    )


def test_every_variant_is_the_recipe_with_a_change() -> None:
    recipe = ["--config", str(ROOT / RECIPE)]
    configs = {repr(parse_command_line([*recipe, *settings], "")[0]) for settings in VARIANTS.values()}
    assert len(configs) == len(VARIANTS)


@pytest.mark.parametrize(
    ("accuracies", "dips"),
    [
        ((0.1, 0.5, 0.9, 0.85, 0.9), []),
        ((0.9, 0.3, 0.5, 0.82), [True]),
        ((0.9, 0.3, 0.5, 0.7), [False]),
        ((0.9, 0.3, 0.9, 0.2, 0.1), [True, False]),
        ((0.9, 0.85, 0.78, 0.7), []),  # never far below the evaluation before
    ],
)
def test_a_dip_is_a_fall_and_recovers_where_it_began(accuracies: tuple[float, ...], dips: list[bool]) -> None:
    assert dips_of(evaluations(*accuracies)) == dips


def run_of(rows: tuple[dict[str, float], ...]) -> Run:
    empty: tuple[dict[str, float], ...] = ()
    recipe = {"optim": {"global_batch_size": 64}}
    return Run(  # type: ignore[call-arg]
        **{name: None for name in ("path", "model", "frontier", "audit", "is_running", "num_unreadable")},
        **{name: "" for name in ("recipe_text", "environment_text")},
        **{name: empty for name in ("train", "resets", "checkpoints", "collapses", "nonfinite", "samples")},
        recipe=recipe,
        evaluations=rows,
    )


def test_learned_counts_in_the_last_stage_alone() -> None:
    rows = (*evaluations(0.99, 0.99), {"step": 750, "num_removed": 10, "accuracy": 0.2})
    assert outcome(run_of(rows), 0.2) == Outcome(0.2, None, 1, 0)
    rows = (*rows, {"step": 1000, "num_removed": 10, "accuracy": 0.96})
    assert outcome(run_of(rows), 0.97) == Outcome(0.97, 64_000, 1, 1)


def test_a_line_sums_up_the_seeds() -> None:
    lines = table({"no_reset": [Outcome(0.5, None, 2, 1), Outcome(0.97, 64_000, 1, 1)]}).splitlines()
    assert lines[2] == "| no reset | 73.5 (50.0-97.0) | never, 64,000 | 2/1, 1/1 |"
