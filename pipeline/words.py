"""Texts as sequences of word numbers, and words as token ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NUM_CHARACTERS = 128  # of ASCII


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts as word numbers."""

    words: np.ndarray
    begins: np.ndarray
    """(num_texts + 1,): where each text's words begin."""

    def part(self, first: int, count: int) -> "Texts":
        """Return ``count`` texts from the one at ``first`` on."""
        begins = self.begins[first : first + count + 1]
        return Texts(self.words[begins[0] : begins[-1]], begins - begins[0])

    def shift_first_words(self, shift: int) -> "Texts":
        """Return the texts with another number for the first word of each that has any."""
        words = self.words.copy()
        words[self.begins[:-1][np.diff(self.begins) > 0]] += shift
        return Texts(words, self.begins)

    def pick(self, keep: np.ndarray) -> "Texts":
        """Return the texts at which ``keep``, (num_texts,) booleans, is true."""
        if keep.all():
            return self
        counts = np.diff(self.begins)
        return Texts(self.words[np.repeat(keep, counts)], begins_of(counts[keep]))

    def any_of(self, chosen: np.ndarray) -> np.ndarray:
        """Return which texts hold a word at whose number ``chosen`` is true, (num_texts,) booleans."""
        if not chosen.any():
            return np.zeros(len(self.begins) - 1, dtype=bool)
        return np.diff(begins_of(chosen[self.words])[self.begins]) > 0


@dataclass(frozen=True, slots=True)
class WordIds:
    """Different words as token ids."""

    ids: np.ndarray
    """int32, one word after the other."""
    begins: np.ndarray
    """(num_words + 1,): where each word's ids begin."""
    unsure: np.ndarray
    """(num_words,) booleans: words that may have other tokens in a text, or are not in the vocabulary."""

    def of(self, words: np.ndarray) -> np.ndarray:
        """Return the ids of a sequence of words."""
        counts = np.diff(self.begins)
        if (counts == 1).all():
            return self.ids[words]
        begins = begins_of(counts[words])
        shifts = np.repeat(self.begins[words] - begins[:-1], counts[words])
        return self.ids[shifts + np.arange(begins[-1])]

    def begins_in(self, words: np.ndarray) -> np.ndarray:
        """Return where each word's ids begin in those of a sequence, (len(words) + 1,)."""
        counts = np.diff(self.begins)
        return np.arange(len(words) + 1) if (counts == 1).all() else begins_of(counts[words])


def begins_of(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return where things of these lengths begin when they are joined, and where the last ends."""
    begins = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=begins[1:])
    return begins


def cut_into_words(texts: pa.Array) -> tuple[list[str], Texts]:
    """Cut texts at every blank.

    Where two blanks meet, or a text begins or ends with one, there is an empty word; an empty text is one.

    Returns:
        The different words, and the texts as their numbers.
    """
    ended = pc.binary_join_element_wise(texts, "", " ")  # so that every word ends with a blank
    text_begins = np.frombuffer(ended.buffers()[1], np.int32)[: len(ended) + 1]
    characters = np.frombuffer(ended.buffers()[2] or b"", np.uint8)[: text_begins[-1]]
    begins = np.append(0, np.flatnonzero(characters == ord(" ")) + 1).astype(np.int32)
    # Words of one character need not be looked up: they go by the character, and empty ones by their blank.
    words = characters[begins[:-1]].astype(np.int32)
    is_long = np.diff(begins) > 2
    different = []
    if is_long.any():
        long = pa.StringArray.from_buffers(len(words), pa.py_buffer(begins), ended.buffers()[2]).filter(is_long)
        coded = long.dictionary_encode()
        words[is_long] = NUM_CHARACTERS + coded.indices.to_numpy()
        different = [word[:-1] for word in coded.dictionary.to_pylist()]
    different = ["" if character == " " else character for character in map(chr, range(NUM_CHARACTERS))] + different
    occurs = np.bincount(words, minlength=len(different)) > 0
    numbers = np.cumsum(occurs, dtype=np.int32) - 1
    return (
        [word for word, used in zip(different, occurs, strict=True) if used],
        Texts(numbers[words], np.searchsorted(begins, text_begins)),
    )
