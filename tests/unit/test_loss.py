"""The loss of micro-batches: a sum over label tokens, the same in whatever arrangement."""

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.batching import MicroBatch, collate
from pipeline.layout import SequenceLayout, assemble_row
from pipeline.loss import token_loss_sum
from pipeline.removal import CoTExample

END, PAD, OTHER_PAD = 1, 0, 12
LAYOUT = SequenceLayout((END,), (END,), END, PAD)
CPU = torch.device("cpu")


def rows(num_rows: int = 8) -> list:
    """Return rows whose CoT has 0, 1, 4, 9, ... tokens: from 5 to over 50 in all."""
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 12, (count,), generator=generator).tolist())

    return [assemble_row(CoTExample(ids(1 + i % 3), ids(i * i), (*ids(1), END)), LAYOUT) for i in range(num_rows)]


def num_labels(batch_rows: list) -> int:
    return sum(len(row.input_ids) - row.label_start for row in batch_rows)


def plain_loss_sum(model: PreTrainedModel, row: object) -> torch.Tensor:
    """Cross-entropy of one row by itself: no padding, no mask, logits everywhere, then the labels picked out."""
    ids = torch.tensor(row.input_ids)[None]  # type: ignore[attr-defined]
    log_probabilities = functional.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    begin = row.label_start  # type: ignore[attr-defined]
    # Position i - 1 predicts token i.
    return -sum(log_probabilities[i - 1, ids[0, i]] for i in range(begin, ids.shape[1]))


def gradients(model: PreTrainedModel, micro_batches: list[MicroBatch], divisor: int) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in micro_batches:
        (token_loss_sum(model, batch, CPU)[0] / divisor).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}  # type: ignore[union-attr]


def test_equals_plain_cross_entropy_row_by_row(tiny_model: PreTrainedModel) -> None:
    batch_rows = rows()
    loss_sum, num_correct = token_loss_sum(tiny_model, collate(batch_rows, LAYOUT), CPU)
    expected = sum(plain_loss_sum(tiny_model, row) for row in batch_rows)
    torch.testing.assert_close(loss_sum / num_labels(batch_rows), expected / num_labels(batch_rows), rtol=0, atol=1e-6)
    right = 0
    for row in batch_rows:
        ids = torch.tensor(row.input_ids)
        predicted = tiny_model(input_ids=ids[None]).logits[0].argmax(-1)
        right += int((predicted[row.label_start - 1 : -1] == ids[row.label_start :]).sum())
    assert num_correct == right
    assert 0 < right < num_labels(batch_rows)  # or the count would prove nothing


def test_position_ids_reach_the_model(tiny_model: PreTrainedModel) -> None:
    example = CoTExample((3, 4), (5, 6), (7, END))
    kept = assemble_row(example, LAYOUT, shift=9)
    loss_sum, _ = token_loss_sum(tiny_model, collate([kept], LAYOUT), CPU)
    ids, positions = (torch.tensor(part)[None] for part in (kept.input_ids, kept.position_ids))
    logits = tiny_model(input_ids=ids, position_ids=positions).logits[0]
    expected = functional.cross_entropy(logits[2:-1], ids[0, 3:], reduction="sum")
    torch.testing.assert_close(loss_sum, expected, rtol=1e-6, atol=1e-6)
    without, _ = token_loss_sum(tiny_model, collate([assemble_row(example, LAYOUT)], LAYOUT), CPU)
    assert abs(loss_sum - without) > 1e-3


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 5], [7, 1]], ids=str)
def test_micro_batches_sum_to_the_whole(tiny_model: PreTrainedModel, sizes: list[int]) -> None:
    batch_rows = rows()
    divisor = num_labels(batch_rows)
    whole = [collate(batch_rows, LAYOUT)]
    remaining = iter(batch_rows)
    parts = [collate([next(remaining) for _ in range(size)], LAYOUT) for size in sizes]
    losses = [
        sum(token_loss_sum(tiny_model, batch, CPU)[0] for batch in batches) / divisor for batches in (whole, parts)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-6)
    expected, found = gradients(tiny_model, whole, divisor), gradients(tiny_model, parts, divisor)
    assert any(gradient.abs().max() > 1e-2 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_a_mean_of_means_would_be_something_else(tiny_model: PreTrainedModel) -> None:
    # Shows that the rows are unequal enough for the tests above to tell the two apart.
    batch_rows = rows()
    means = [plain_loss_sum(tiny_model, row) / num_labels([row]) for row in batch_rows]
    loss_sum, _ = token_loss_sum(tiny_model, collate(batch_rows, LAYOUT), CPU)
    assert abs(sum(means) / len(means) - loss_sum / num_labels(batch_rows)) > 1e-2


def test_empty_micro_batch_takes_part_with_zero(tiny_model: PreTrainedModel) -> None:
    empty = collate([], LAYOUT)
    loss_sum, num_correct = token_loss_sum(tiny_model, empty, CPU)
    assert (loss_sum.item(), int(num_correct)) == (0.0, 0)
    for name, gradient in gradients(tiny_model, [empty], 1).items():
        assert gradient.eq(0).all(), name


def test_padding_does_not_matter(tiny_model: PreTrainedModel) -> None:
    batch_rows = rows(5)
    with_pad = collate(batch_rows, LAYOUT)
    with_other = collate(batch_rows, SequenceLayout((END,), (END,), END, pad_id=OTHER_PAD))
    assert (with_pad.input_ids != with_other.input_ids).any()
    assert token_loss_sum(tiny_model, with_pad, CPU)[0] == token_loss_sum(tiny_model, with_other, CPU)[0]
    expected, found = gradients(tiny_model, [with_pad], 1), gradients(tiny_model, [with_other], 1)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6)


def test_padding_of_a_long_neighbour_does_not_matter(tiny_model: PreTrainedModel) -> None:
    short, *_, long = rows()
    together = token_loss_sum(tiny_model, collate([short, long], LAYOUT), CPU)[0]
    apart = sum(token_loss_sum(tiny_model, collate([row], LAYOUT), CPU)[0] for row in (short, long))
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=0)


def test_logits_are_computed_for_label_tokens_alone(tiny_model: PreTrainedModel) -> None:
    (row,) = rows(2)[1:]
    seen = []
    hook = tiny_model.get_output_embeddings().register_forward_hook(lambda _m, _i, logits: seen.append(logits.shape))
    token_loss_sum(tiny_model, collate([row], LAYOUT), CPU)
    hook.remove()
    # One CoT token, second separator, answer, end; none for the question and the first separator.
    assert [shape.numel() // shape[-1] for shape in seen] == [4]
