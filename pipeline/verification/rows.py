"""What is known of the rows that are being decoded: what they have written, and what they may write next."""

from dataclasses import dataclass, fields

import numpy as np


def compare(guesses: np.ndarray, predictions: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hold a model's argmaxes against the guesses it was given.

    Args:
        guesses: (rows, window), the tokens that were guessed.
        predictions: (rows, window), the model's argmax in place of each; the n-th saw the n guesses before it.
        asked: (rows,), how many predictions were made, at least 1.

    Returns:
        How many predictions agree with their guesses before one does not, and how many are sure: the first
        disagreement is the model's own word too. Both (rows,).
    """
    agrees = (guesses == predictions) & (np.arange(guesses.shape[1]) < asked[:, None])
    agreed = np.cumprod(agrees, axis=1).sum(axis=1)
    return agreed, np.minimum(agreed + 1, asked)


def best_width(windows: np.ndarray, pass_cost: int) -> int:
    """Return how many tokens to ask of every row in one pass, where a row would be asked for its ``windows``.

    A pass is as wide for one row as for another, so what one row gains by a wide pass all others pay.

    Args:
        windows: (rows,), at least 1.
        pass_cost: What a pass costs besides its tokens, in tokens.
    """
    widths = np.arange(1, windows.max() + 1)
    gained = np.minimum(windows[:, None], widths).sum(axis=0)
    return int(widths[(gained / (pass_cost + len(windows) * widths)).argmax()])


@dataclass(slots=True)
class Rows:
    """The row in each slot; every array has one entry for a slot."""

    text: np.ndarray
    """(slots, longest continuation), tokens written, and guesses behind them as far as the draft went."""
    number: np.ndarray
    """Which of all rows it is."""
    num_draft: np.ndarray
    """Tokens in its draft."""
    num_written: np.ndarray
    window: np.ndarray
    """How many tokens to ask for at once."""
    begin: np.ndarray
    """Position id of the first token written."""
    limit: np.ndarray
    """Most tokens to write."""
    ends_left: np.ndarray
    """End tokens still to be written."""

    @classmethod
    def empty(cls, num_slots: int, longest: int) -> "Rows":
        """Return slots without rows."""
        shapes = [(num_slots, longest)] + [(num_slots,)] * (len(fields(cls)) - 1)
        return cls(*(np.zeros(shape, dtype=np.int64) for shape in shapes))

    def move(self, sources: np.ndarray, targets: np.ndarray) -> None:
        """Copy slots to other slots."""
        for field in fields(self):
            values = getattr(self, field.name)
            values[targets] = values[sources]

    def wanted(self, live: slice) -> np.ndarray:
        """Return how many tokens to ask for in each slot: one, and as many more as there are guesses that may hold."""
        # The token behind the last guess is predicted too.
        guessed = np.maximum(self.num_draft[live] - self.num_written[live], 0) + 1
        return np.minimum(np.minimum(self.window[live], guessed), self.limit[live] - self.num_written[live])

    def accept(
        self, live: slice, asked: np.ndarray, predictions: np.ndarray, end_id: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write a model's argmaxes into some slots: those that are sure, and the others as guesses.

        Args:
            live: The slots.
            asked: (slots,), how many tokens each was asked for.
            predictions: (sum of asked,), slot after slot.
            end_id: The end token.

        Returns:
            What ``compare`` does.
        """
        place = np.arange(asked.max())
        is_asked = place < asked[:, None]
        table = np.full(is_asked.shape, -1)
        table[is_asked] = predictions
        at = np.minimum(self.num_written[live, None] + place, self.text.shape[1] - 1)
        agreed, accepted = compare(np.take_along_axis(self.text[live], at, axis=1), table, asked)
        slot, column = np.nonzero(is_asked)
        self.text[live.start + slot, at[slot, column]] = predictions
        self.ends_left[live] -= ((table == end_id) & (place < accepted[:, None])).sum(axis=1)
        self.num_written[live] += accepted
        return agreed, accepted

    def is_done(self, live: slice) -> np.ndarray:
        """Return which slots hold a row with nothing left to write, as booleans."""
        return (self.ends_left[live] <= 0) | (self.num_written[live] >= self.limit[live])
