"""DeepSpeed on two real ranks: same losses as one, and a reset that resets all it must and nothing else."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

import pipeline.engine.engine as engine_module
from pipeline.engine import init_distributed
from tests.distributed import jobs
from tests.distributed.pool import RankPool

DS_CONFIGS = ["zero0", "zero1", "zero2", "zero3", "zero3_offload"]


@pytest.fixture(scope="module")
def one_rank_losses() -> dict[int, list[float]]:
    """Losses of one rank without ZeRO, by micro-batch budget."""
    init_distributed()
    return {budget: jobs.losses("zero0", "fp32", budget) for budget in (1000, 25)}


def test_micro_batches_do_not_change_the_loss(one_rank_losses: dict[int, list[float]]) -> None:
    assert one_rank_losses[25] == pytest.approx(one_rank_losses[1000], abs=1e-6)
    assert one_rank_losses[1000][-1] < one_rank_losses[1000][0]


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_two_ranks_have_the_losses_of_one(
    two_ranks: RankPool, one_rank_losses: dict[int, list[float]], ds_config: str
) -> None:
    # At 25 tokens the seven rows make an odd number of micro-batches, so that a rank runs an empty one.
    for by_rank in two_ranks.run(jobs.losses, ds_config, "fp32", 25):
        assert by_rank == pytest.approx(one_rank_losses[1000], abs=2e-6)


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_bf16_follows_fp32(two_ranks: RankPool, one_rank_losses: dict[int, list[float]], ds_config: str) -> None:
    for by_rank in two_ranks.run(jobs.losses, ds_config, "bf16", 1000):
        assert by_rank == pytest.approx(one_rank_losses[1000], rel=0.02)


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
@pytest.mark.parametrize("norms", [jobs.grad_norms, jobs.moment_norms])
def test_norms_are_those_of_one_rank(
    two_ranks: RankPool, ds_config: str, norms: Callable[[str], Sequence[float]]
) -> None:
    init_distributed()
    expected = norms("zero0")
    assert min(expected) > 0
    for by_rank in two_ranks.run(norms, ds_config):
        assert by_rank == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_betas_epsilon_and_clipping_are_the_recipes(two_ranks: RankPool, ds_config: str) -> None:
    init_distributed()
    optim = replace(jobs.OPTIM, betas=(0.8, 0.95), eps=1e-3, max_grad_norm=0.1)
    expected = jobs.plain_losses(optim)
    for by_rank in two_ranks.run(jobs.losses, ds_config, "fp32", 1000, optim):
        assert by_rank == pytest.approx(expected, abs=1e-5)


def test_dropout_draws_anew_with_each_step_seed_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    init_distributed()
    engines = [jobs.tiny_engine("zero0", "fp32", seed=seed) for seed in (0, 1)]
    batches = [replace(jobs.tiny_batch(1000), step=step) for step in (0, 1)]

    def seeds() -> list[int]:
        seen: list[int] = []
        monkeypatch.setattr(torch, "manual_seed", seen.append)
        for rank, engine, batch in itertools.product((0, 1), engines, batches):
            monkeypatch.setattr(engine_module, "rank", lambda rank=rank: rank)
            engine.train_step(batch, 0.0)
        return seen

    first = seeds()
    assert len(set(first)) == 8
    assert seeds() == first


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_reset_is_a_fresh_optimizer_on_the_same_weights(two_ranks: RankPool, ds_config: str, precision: str) -> None:
    for result in two_ranks.run(jobs.reset, ds_config, precision):
        assert result["moments_before"] > 0
        assert result["zeroed"]
        assert set(result["steps"]) == {0.0}
        assert result["unchanged"]
        assert result["dtypes"] == {"torch.float32"}
        assert result["difference_from_fresh"] < 1e-6


@pytest.mark.parametrize("ds_config", DS_CONFIGS)
def test_weights_that_generate_are_the_weights_saved(two_ranks: RankPool, ds_config: str) -> None:
    assert all(two_ranks.run(jobs.gathered_equals_exported, ds_config))


def test_masters_are_stepped_at_once_as_deepspeed_steps_them_one_by_one() -> None:
    init_distributed()
    ours, theirs = (jobs.tiny_engine("zero0", "bf16") for _ in range(2))
    del theirs._ds.optimizer.step  # the class's own comes back
    batch = jobs.tiny_batch(1000)
    for step in range(4):
        norms = [engine.train_step(batch, 1e-2).grad_norm for engine in (ours, theirs)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        assert (norms[0] > jobs.OPTIM.max_grad_norm) == (step == 0)  # clipped, and not
        for (mine, state), (other, others_state) in zip(ours.optimizer_state(), theirs.optimizer_state(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(state["exp_avg_sq"], others_state["exp_avg_sq"], rtol=1e-4, atol=1e-9)
    weights = [list(engine.model.parameters()) for engine in (ours, theirs)]
    assert all(torch.equal(mine, other) for mine, other in zip(*weights, strict=True))
