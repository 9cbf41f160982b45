"""What plain research code for stepwise internalization does in a step, written from its description; ours to beat.

Rows in the order of the data, removal by a Python loop over the rows inside the step, padding on the right to the
longest, logits and argmax at every position, one pass for the whole batch, the fused AdamW. Nothing is done worse than
such code does it.

Source: arXiv:2405.14838 and the description of its public code.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.layout import SequenceLayout
from pipeline.removal import CoTExample

IGNORE_INDEX = -100


class BaselineTrainer:
    """A model, its AdamW, and a step on a batch."""

    def __init__(self, model: PreTrainedModel, layout: SequenceLayout, *, in_bf16: bool = False) -> None:
        self.model, self._layout = model.train(), layout
        self._autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=in_bf16)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01, fused=True)

    def step(self, examples: Sequence[CoTExample], num_removed: int) -> float:
        """Do one optimizer step at learning rate 0, and return the loss."""
        input_ids, labels = self._batch(examples, num_removed)
        mask = input_ids.ge(0)
        with self._autocast:
            logits = self.model(
                input_ids=input_ids.clamp(min=0), attention_mask=mask.long(), use_cache=False
            ).logits  # (batch, seq, vocab)
            predictions, targets = logits[:, :-1].argmax(-1), labels[:, 1:]
            is_label = targets.ne(IGNORE_INDEX)
            self.token_accuracy = ((predictions == targets) & is_label).sum().item() / is_label.sum().item()
            loss = functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _batch(self, examples: Sequence[CoTExample], num_removed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, starts = [], []
        for example in examples:
            cot = example.cot_ids[num_removed:]
            prompt = (*example.question_ids, *self._layout.first_separator_ids)
            rows.append((*prompt, *cot, *self._layout.second_separator_ids, *example.answer_ids))
            starts.append(len(prompt))
        shape = (len(rows), max(map(len, rows)))
        input_ids, labels = torch.full(shape, -1), torch.full(shape, IGNORE_INDEX)
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            input_ids[i, : len(row)] = torch.tensor(row)
            labels[i, start : len(row)] = input_ids[i, start : len(row)]
        return input_ids.to(self.model.device), labels.to(self.model.device)
