"""A stage has collapsed when its loss ends far above that of the last stage that had not."""

import pytest

from pipeline.collapse import WINDOW, LossWatch, after_stage, after_step


def ended(watch: LossWatch, losses: list[float], ratio: float = 2.0) -> tuple[bool, float, LossWatch]:
    for loss in losses:
        watch = after_step(watch, loss)
    watch, loss = after_stage(watch, ratio)
    return watch.has_collapsed, loss, watch


def test_only_the_end_of_a_stage_counts() -> None:
    collapsed, loss, _ = ended(LossWatch(reference=0.2), [9.0] * 50 + [0.3] * WINDOW)
    assert not collapsed and loss == pytest.approx(0.3)


def test_a_collapsed_stage_is_no_measure_for_the_next() -> None:
    collapsed, _, watch = ended(LossWatch(), [0.2] * 30)
    assert not collapsed and watch.reference == pytest.approx(0.2)  # nothing to compare the first with
    collapsed, loss, watch = ended(watch, [1.0] * 30)
    assert collapsed and loss == pytest.approx(1.0) and watch.reference == pytest.approx(0.2)
    collapsed, _, watch = ended(watch, [0.9] * 30)
    assert collapsed  # better than before, and still not recovered
    collapsed, _, watch = ended(watch, [0.39] * 30)
    assert not collapsed and watch.reference == pytest.approx(0.39)


def test_a_multiple_of_almost_nothing_is_no_collapse() -> None:
    assert not ended(LossWatch(reference=0.001), [0.04] * 30)[0]
    assert ended(LossWatch(reference=0.001), [0.06] * 30)[0]


def test_the_ratio_is_the_recipes() -> None:
    assert ended(LossWatch(reference=1.0), [1.6] * 5, ratio=1.5)[0]
    assert not ended(LossWatch(reference=1.0), [1.6] * 5, ratio=1.7)[0]
