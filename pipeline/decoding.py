"""Greedy decoding, batched, and what the decoded tokens mean.

Source: arXiv:2405.14838, section 4 (exact match of greedily decoded answers).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from pipeline.layout import Row, SequenceLayout
from pipeline.scoring import extract_answer


@dataclass(frozen=True, slots=True)
class Prompt:
    """What one decoding starts from."""

    row: Row
    num_end_tokens: int
    """End tokens in a full continuation: decoding stops at the last of them."""


class _EndTokenCount(StoppingCriteria):
    """Stops each row at its own number of end tokens, since separators may be end tokens too."""

    def __init__(self, prompt_length: int, end_id: int, num_end_tokens: torch.Tensor) -> None:
        self.prompt_length, self.end_id, self.num_end_tokens = prompt_length, end_id, num_end_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return (input_ids[:, self.prompt_length :] == self.end_id).sum(-1) >= self.num_end_tokens


@torch.inference_mode()
def greedy_decode(
    model: PreTrainedModel, prompts: Sequence[Prompt], layout: SequenceLayout, max_new_tokens: int, batch_size: int
) -> list[list[int]]:
    """Continue each prompt greedily.

    Args:
        model: In evaluation mode, whole on this rank.
        prompts: Question and first separator, with their position ids.
        layout: Gives padding and end token.
        max_new_tokens: Most tokens written for a prompt; fewer where the model's positions end before that.
        batch_size: Prompts decoded together; they are sorted by length first.

    Returns:
        For each prompt, in the order given, the tokens written, without the final end token.
    """
    room = [room_for(model, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].row.input_ids))
    roomy = [i for i in order if room[i] >= max_new_tokens]
    batches = [roomy[begin : begin + batch_size] for begin in range(0, len(roomy), batch_size)]
    # A row near the model's last position is decoded alone, or its limit would cut off what others still have to write.
    batches += [[i] for i in order if room[i] < max_new_tokens]
    written: list[list[int]] = [[] for _ in prompts]
    for batch in batches:
        limit = min(max_new_tokens, room[batch[0]])
        for i, ids in zip(batch, _decode_batch(model, [prompts[i] for i in batch], layout, limit), strict=True):
            written[i] = cut_at_end(ids, layout.end_id, prompts[i].num_end_tokens)
    return written


def room_for(model: PreTrainedModel, prompt: Prompt) -> int:
    """Return how many tokens the model's positions allow behind a prompt."""
    return int(model.config.max_position_embeddings - 1 - prompt.row.position_ids[-1])


def _decode_batch(
    model: PreTrainedModel, prompts: Sequence[Prompt], layout: SequenceLayout, max_new_tokens: int
) -> list[list[int]]:
    longest = max(len(prompt.row.input_ids) for prompt in prompts)
    shape = (len(prompts), longest)
    input_ids = torch.full(shape, layout.pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)
    for i, prompt in enumerate(prompts):  # padded on the left: decoding goes on at the right
        begin = longest - len(prompt.row.input_ids)
        input_ids[i, begin:] = torch.from_numpy(prompt.row.input_ids)
        position_ids[i, begin:] = torch.from_numpy(prompt.row.position_ids)
        attention_mask[i, begin:] = 1
    device = model.device
    ends = torch.tensor([prompt.num_end_tokens for prompt in prompts], device=device)
    with _without_own_settings(model):
        output = model.generate(
            input_ids=input_ids.to(device),
            attention_mask=attention_mask.to(device),
            position_ids=position_ids.to(device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=layout.pad_id
            ),
            stopping_criteria=StoppingCriteriaList([_EndTokenCount(longest, layout.end_id, ends)]),
        )
    return output[:, longest:].tolist()


@contextmanager
def _without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Set the model's generation settings aside: generate() takes from them whatever is not said, as the end token."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def cut_at_end(ids: Sequence[int], end_id: int, num_end_tokens: int) -> list[int]:
    """Return the tokens before the ``num_end_tokens``-th end token, or all where there are fewer."""
    ends = [i for i, token in enumerate(ids) if token == end_id]
    return list(ids[: ends[num_end_tokens - 1]] if len(ends) >= num_end_tokens else ids)


def split_continuation(ids: Sequence[int], layout: SequenceLayout) -> tuple[list[int], list[int]]:
    """Split written tokens at the last second separator into CoT and answer.

    Where the separator is empty or was not written, everything counts as the answer.
    """
    separator = list(layout.second_separator_ids)
    for begin in range(len(ids) - len(separator), -1, -1) if separator else ():
        if list(ids[begin : begin + len(separator)]) == separator:
            return list(ids[:begin]), list(ids[begin + len(separator) :])
    return [], list(ids)


def read_answer(
    ids: Sequence[int], layout: SequenceLayout, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], str]:
    """Return the CoT in written tokens, and the answer as it is scored."""
    cot_ids, answer_ids = split_continuation(ids, layout)
    # What tokenizers call cleaning up takes the blank out of "x , y".
    text = tokenizer.decode(answer_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return cot_ids, extract_answer(text)
