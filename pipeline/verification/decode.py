"""The decoding itself: which rows go through the model, and with how many guesses."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from pipeline.decoding import Prompt, cut_at_end, greedy_decode, room_for
from pipeline.layout import SequenceLayout
from pipeline.modeling.packed_attention import can_pack
from pipeline.verification.rows import Rows, best_width
from pipeline.verification.slots import SlotCache

MAX_LOGITS = 2**25  # logits computed in one pass; 128 MiB in fp32
PASS_TOKENS = 4096  # of prompts and guesses in one pass; more fill no device better
PROBE_ROWS = 8  # in the first pass, which shows how much of a draft is worth trying
PASS_COST = 64  # what a pass costs besides its tokens, in tokens: its launch, and reading the weights
FIRST_WINDOW = 4  # most tokens asked for at once behind a first disagreement
REFILL_AT = 4  # new rows are taken in when one slot in so many is free
SPARE_COLUMNS = 8  # of a slot, for holes
ALL = 2**31  # more tokens than any draft has


@torch.inference_mode()
def verified_decode(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    drafts: Sequence[Sequence[int]],
    layout: SequenceLayout,
    max_new_tokens: int,
    batch_size: int,
) -> list[list[int]]:
    """Continue each prompt greedily, as ``greedy_decode`` does, in fewer passes of the model.

    A row's prompt and draft go through the model together; where every argmax agrees the row is done. Otherwise it
    goes on from its first disagreement with what is in the cache. What the model said further on, behind tokens that
    it did not write, is its next guess: a wrong digit often shifts nothing of what follows. The window of guesses
    doubles while they hold and halves when they do not, so rows that no guess fits cost what plain decoding costs.
    Where most rows disagree early, new ones are given less of their draft.

    Equal to ``greedy_decode`` up to rounding: two tokens whose logits differ by less than that may change places, as
    they may between two batch sizes. In fp32 that is hardly ever seen.

    Args:
        model: In evaluation mode, whole on this rank.
        prompts: Question and first separator, with their position ids.
        drafts: Guess of each row's continuation, end token included. Any guess gives the same result.
        layout: Gives padding and end token.
        max_new_tokens: Most tokens written for a prompt; fewer where the model's positions end before that.
        batch_size: Rows with keys and values in memory at a time.

    Returns:
        For each prompt, in the order given, the tokens written, without the final end token.
    """
    if not prompts:
        return []
    longest = max(len(prompt.row.input_ids) for prompt in prompts)
    if not _can_take_back(model, longest + max_new_tokens + SPARE_COLUMNS):
        return greedy_decode(model, prompts, layout, max_new_tokens, batch_size)
    return _Verification(model, prompts, drafts, layout, max_new_tokens, batch_size).run()


def _can_take_back(model: PreTrainedModel, num_columns: int) -> bool:
    """Return whether masking a token undoes it: no state runs on, and no window counts the holes in a cache."""
    window = getattr(model.config, "sliding_window", None)
    return can_pack(model, model.config) and (window is None or window >= num_columns)


class _Verification:
    """One call of ``verified_decode``. Live rows stand in the first slots, without gaps."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Prompt],
        drafts: Sequence[Sequence[int]],
        layout: SequenceLayout,
        max_new_tokens: int,
        batch_size: int,
    ) -> None:
        self._model, self._prompts, self._layout = model, prompts, layout
        limits = [min(max_new_tokens, room_for(model, prompt)) for prompt in prompts]
        self._limits = np.array(limits)
        self._drafts = [np.array(draft[:limit], dtype=np.int64) for draft, limit in zip(drafts, limits, strict=True)]
        self._num_prompt = np.array([len(prompt.row.input_ids) for prompt in prompts])
        self._num_draft = np.array([len(draft) for draft in self._drafts])
        # The longest come first, so what memory they take is known at once.
        self._waiting = np.argsort(-(self._num_prompt + self._num_draft), kind="stable")
        num_slots = min(batch_size, len(prompts))
        self._rows = Rows.empty(num_slots, int(self._limits.max()))
        num_columns = int(self._num_prompt.max() + self._limits.max()) + SPARE_COLUMNS
        self._slots = SlotCache(num_slots, num_columns)
        self._num_slots, self._num_live = num_slots, 0
        self._reach, self._most_rows = ALL, PROBE_ROWS
        self._written: list[list[int]] = [[] for _ in prompts]

    def run(self) -> list[list[int]]:
        while len(self._waiting) or self._num_live:
            while self._takes_in():
                self._begin_rows()
            if self._num_live:
                self._continue_rows()
        return self._written

    def _takes_in(self) -> bool:
        wanted = min(max(self._num_slots // REFILL_AT, 1), len(self._waiting))
        return 0 < wanted <= self._num_slots - self._num_live

    def _begin_rows(self) -> None:
        """Put prompts and drafts through the model, and keep the rows that are not done with that."""
        chosen, asked = self._choose()
        begin, end = self._num_live, self._num_live + len(chosen)
        num_inputs = self._num_prompt[chosen] + asked - 1
        input_ids = np.full((len(chosen), num_inputs.max()), self._layout.pad_id)
        position_ids = np.zeros_like(input_ids)
        for i, number in enumerate(chosen):
            row, draft = self._prompts[number].row, self._drafts[number]
            own = slice(0, num_inputs[i])
            input_ids[i, own] = np.concatenate((row.input_ids, draft[: asked[i] - 1]))
            ahead = row.position_ids[-1] + np.arange(1, asked[i])
            position_ids[i, own] = np.concatenate((row.position_ids, ahead))
            self._rows.text[begin + i, : len(draft)] = draft
            self._rows.begin[begin + i] = row.position_ids[-1] + 1
            self._rows.ends_left[begin + i] = self._prompts[number].num_end_tokens
        new = slice(begin, end)
        self._rows.number[new], self._rows.limit[new] = chosen, self._limits[chosen]
        self._rows.num_written[new], self._rows.num_draft[new] = 0, self._num_draft[chosen]

        place = np.arange(input_ids.shape[1])
        predicts = (place >= self._num_prompt[chosen, None] - 1) & (place < num_inputs[:, None])
        self._slots.rows, self._slots.begin = new, 0
        # Padding stands at the right, where no token looks: no mask is needed, and attention runs faster without.
        predictions = self._predict(input_ids, position_ids, predicts, np.ones_like(input_ids))
        agreed, accepted = self._rows.accept(new, asked, predictions, self._layout.end_id)
        num_seen = self._num_prompt[chosen] - 1 + accepted
        self._slots.is_seen[new] = np.arange(self._slots.num_columns) < num_seen[:, None]
        # Half of the rows agreed so far with their drafts; one that agreed with all of it would have with a longer one.
        typical = np.quantile(np.where(agreed == self._num_draft[chosen], ALL, agreed), 0.5, method="lower")
        self._reach = max(2 * int(typical), 1)
        self._rows.window[new] = np.where(agreed == asked, 2 * asked, min(self._reach, FIRST_WINDOW))
        self._num_live = end
        self._let_go(begin)

    def _choose(self) -> tuple[np.ndarray, np.ndarray]:
        """Take rows that fit into a pass from those waiting; returns their numbers, and the tokens asked of each."""
        chosen = self._waiting[: min(self._num_slots - self._num_live, self._most_rows)]
        asked = np.clip(self._num_draft[chosen], 1, min(self._reach, self._max_predictions))
        widest = np.maximum.accumulate(self._num_prompt[chosen] + asked)
        fits = (widest * np.arange(1, len(chosen) + 1) <= PASS_TOKENS) & (asked.cumsum() <= self._max_predictions)
        number = max(int(np.cumprod(fits).sum()), 1)
        self._waiting, self._most_rows = self._waiting[number:], self._num_slots
        return chosen[:number], asked[:number]

    @property
    def _max_predictions(self) -> int:
        return max(MAX_LOGITS // self._model.config.vocab_size, 1)

    def _continue_rows(self) -> None:
        """Ask every row for its next tokens."""
        rows, live, slots = self._rows, slice(0, self._num_live), self._slots
        begin = slots.end(self._num_live)
        asked = rows.wanted(live)
        width = min(best_width(asked, PASS_COST), max(self._max_predictions // self._num_live, 1))
        if begin + width > slots.num_columns:
            slots.close_holes(self._num_live)
            begin = slots.end(self._num_live)
            width = min(width, slots.num_columns - begin)
        asked = np.minimum(asked, width)

        place = np.arange(width)
        predicts = place < asked[:, None]
        at = np.where(predicts, rows.num_written[live, None] - 1 + place, 0)  # the last token written comes first
        input_ids = np.take_along_axis(rows.text[live], at, axis=1)
        slots.rows, slots.begin = live, begin
        mask = np.concatenate((slots.is_seen[live, :begin], predicts), axis=1).astype(np.int64)
        predictions = self._predict(input_ids, rows.begin[live, None] + at, predicts, mask)
        agreed, accepted = rows.accept(live, asked, predictions, self._layout.end_id)
        slots.is_seen[live, begin:] = False
        slots.is_seen[live, begin : begin + width] = place < accepted[:, None]
        wider = np.maximum(rows.window[live], 2 * asked)
        rows.window[live] = np.where(agreed == asked, wider, np.maximum(asked // 2, 1))
        self._let_go(0)

    def _predict(
        self, input_ids: np.ndarray, position_ids: np.ndarray, predicts: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Return the argmax behind each token of ``predicts``, all (rows, seq), in one line row after row."""
        inputs = {
            "input_ids": input_ids,
            "position_ids": position_ids,
            "logits_to_keep": predicts,
            # Always given: without it Transformers takes a gap in the positions for the border of packed sequences.
            "attention_mask": mask,
        }
        device = self._model.device
        tensors = {name: torch.from_numpy(value).to(device) for name, value in inputs.items()}
        logits = self._model(**tensors, past_key_values=self._slots.cache, use_cache=True).logits
        return logits.reshape(-1, logits.shape[-1]).argmax(-1).cpu().numpy()

    def _let_go(self, begin: int) -> None:
        """Hand back the rows that are done, of the live slots from ``begin`` on, and close up the others."""
        rows = self._rows
        done = rows.is_done(slice(begin, self._num_live))
        for slot in begin + np.flatnonzero(done):
            number, ids = rows.number[slot], rows.text[slot, : rows.num_written[slot]].tolist()
            self._written[number] = cut_at_end(ids, self._layout.end_id, self._prompts[number].num_end_tokens)
        num_left = self._num_live - int(done.sum())
        free = begin + np.flatnonzero(done[: num_left - begin])
        if len(free):
            behind = num_left + np.flatnonzero(~done[num_left - begin :])
            self._slots.move(behind, free)
            rows.move(behind, free)
        self._num_live = num_left
