"""Finite automata: the question is a string of symbols, the chain of thought the state after each of them.

The answer is the last state. Parity, sums modulo m, and the word problem of the permutation group S3 are such automata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from pipeline.errors import UserError
from pipeline.records import CoTRecord, to_text_line


@dataclass(frozen=True, slots=True)
class Automaton:
    """All strings of one length over the symbols of an automaton, which starts in state 0."""

    transitions: tuple[tuple[int, ...], ...]
    """``transitions[state][symbol]`` is the next state; states and symbols are numbered from 0."""
    length: int
    """Symbols in a question, at least 1."""

    def __post_init__(self) -> None:
        """Refuse a table that is not rectangular or leads to a state it does not have."""
        if not self.transitions or not self.transitions[0]:
            raise UserError("transitions is empty; write one row for each state, with the next state for each symbol.")
        num_states, num_symbols = len(self.transitions), len(self.transitions[0])
        for state, row in enumerate(self.transitions):
            if len(row) != num_symbols:
                raise UserError(
                    f"transitions: the row of state {state} has {len(row)} entries, that of state 0 has {num_symbols}; "
                    "give every state one entry for each symbol."
                )
            for symbol, target in enumerate(row):
                if not 0 <= target < num_states:
                    raise UserError(
                        f"transitions: state {state} goes to {target} on symbol {symbol}; the states are 0 to "
                        f"{num_states - 1}, one for each row."
                    )

    def num_questions(self) -> int:
        """Return the number of strings."""
        return int(len(self.transitions[0]) ** self.length)

    def record_at(self, index: int) -> CoTRecord:
        """Return the string with this number."""
        symbols = []
        for _ in range(self.length):
            index, symbol = divmod(index, len(self.transitions[0]))
            symbols.append(symbol)
        return make_record(symbols, self.transitions)

    def text_lines(self, indices: Sequence[int]) -> list[str]:
        """Return rows as ``to_text_line`` writes them."""
        return [to_text_line(self.record_at(index)) for index in indices]


def make_record(symbols: list[int], transitions: tuple[tuple[int, ...], ...]) -> CoTRecord:
    """Run an automaton from state 0 and write the run as a row; every symbol is one step."""
    states = []
    state = 0
    for symbol in symbols:
        state = transitions[state][symbol]
        states.append(str(state))
    return CoTRecord(question=" ".join(map(str, symbols)), steps=tuple(states), answer=states[-1])


def modular_sum(modulus: int, num_symbols: int) -> tuple[tuple[int, ...], ...]:
    """Return the table that adds symbols 0 to ``num_symbols - 1`` modulo ``modulus``."""
    return tuple(tuple((state + symbol) % modulus for symbol in range(num_symbols)) for state in range(modulus))


def parity() -> tuple[tuple[int, ...], ...]:
    """Return the table of the parity of bits: state 1 after an odd number of ones."""
    return modular_sum(modulus=2, num_symbols=2)


def symmetric_group_3() -> tuple[tuple[int, ...], ...]:
    """Return the multiplication table of S3.

    States and symbols number the permutations of (0, 1, 2) in lexicographic order. State 0 is the identity, and a
    symbol's permutation acts after those read before it.
    """
    elements = list(permutations(range(3)))
    return tuple(
        tuple(elements.index(tuple(symbol[state[place]] for place in range(3))) for symbol in elements)
        for state in elements
    )
