"""What plain research code does to measure accuracy: one call of generate() for each batch; ours to beat.

Batches of 32 rows in the order of the data, padded on the left, with a cache, every token decoded, until all rows of
the batch have ended. Nothing is done worse than such code does it.

Source: arXiv:2405.14838 and the description of its public code.
"""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from pipeline.decoding import Prompt, cut_at_end
from pipeline.layout import SequenceLayout

BATCH_SIZE = 32


class _AllEnded(StoppingCriteria):
    """Ends a row at its last end token: separators are end tokens too, in the paper's format."""

    def __init__(self, prompt_length: int, end_id: int, num_end_tokens: torch.Tensor) -> None:
        self._prompt_length, self._end_id, self._num_end_tokens = prompt_length, end_id, num_end_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return (input_ids[:, self._prompt_length :] == self._end_id).sum(-1) >= self._num_end_tokens


@torch.inference_mode()
def baseline_decode(
    model: PreTrainedModel, prompts: Sequence[Prompt], layout: SequenceLayout, max_new_tokens: int
) -> list[list[int]]:
    """Continue each prompt greedily; returns the tokens written, without the final end token.

    Args:
        model: With a ``generation_config`` of defaults.
        prompts: In the order of the data.
        layout: Gives padding and end token.
        max_new_tokens: Most tokens written for a prompt.
    """
    written: list[list[int]] = []
    for begin in range(0, len(prompts), BATCH_SIZE):
        batch = prompts[begin : begin + BATCH_SIZE]
        longest = max(len(prompt.row.input_ids) for prompt in batch)
        input_ids = torch.full((len(batch), longest), layout.pad_id)
        position_ids, mask = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        for i, prompt in enumerate(batch):
            own = slice(longest - len(prompt.row.input_ids), longest)
            input_ids[i, own] = torch.from_numpy(prompt.row.input_ids)
            position_ids[i, own] = torch.from_numpy(prompt.row.position_ids)
            mask[i, own] = 1
        ends = torch.tensor([prompt.num_end_tokens for prompt in batch], device=model.device)
        output = model.generate(
            input_ids=input_ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=position_ids.to(model.device),
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=layout.pad_id
            ),
            stopping_criteria=StoppingCriteriaList([_AllEnded(longest, layout.end_id, ends)]),
        )
        rows = output[:, longest:].tolist()
        written += [cut_at_end(ids, layout.end_id, p.num_end_tokens) for ids, p in zip(rows, batch, strict=True)]
    return written
