"""One pool of ranks for all distributed tests."""

from collections.abc import Iterator

import pytest

from tests.distributed.pool import RankPool


@pytest.fixture(scope="module")
def four_ranks() -> Iterator[RankPool]:
    """Four ranks over gloo, for one file's tests."""
    pool = RankPool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    """Two ranks over gloo."""
    pool = RankPool(2)
    yield pool
    pool.close()
