"""Trainings that are killed again and again lose nothing."""

from pathlib import Path

import pytest

from tests.faults.kills import kill_often


@pytest.mark.parametrize(
    ("num_ranks", "num_kills", "num_inside_a_save"),
    [
        (1, 3, 1),
        pytest.param(1, 100, 20, marks=pytest.mark.slow),
        pytest.param(2, 30, 5, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost(tmp_path: Path, num_ranks: int, num_kills: int, num_inside_a_save: int) -> None:
    tally = kill_often(tmp_path, num_kills, num_ranks, seed=0, num_inside_a_save=num_inside_a_save)
    print(tally)
    assert tally.is_clean and tally.runs_finished
