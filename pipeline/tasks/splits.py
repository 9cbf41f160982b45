"""Draws training, validation and test rows that share no question."""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.tasks.task import Task

ROWS_AT_ONCE = 8192


def generate_splits(
    tasks: Sequence[Task],
    num_train: int,
    num_validation: int,
    num_test: int,
    seed: int,
    exclude: Collection[str] = frozenset(),
    easier: Sequence[Task] = (),
    easier_share: float = 0.0,
) -> dict[str, "Split"]:
    """Draw questions without replacement, each task (size of question) as often as any other.

    Test comes first and training last: the evaluation rows stay the same when only ``num_train`` changes, and the sizes
    with few questions are not used up by training.

    Args:
        tasks: Sizes to mix; no question may belong to two of them. A size whose questions are used up drops out.
        num_train: Rows of split ``train``.
        num_validation: Rows of split ``validation``.
        num_test: Rows of split ``test``.
        seed: Same seed and arguments, same rows.
        exclude: Questions that no split may hold.
        easier: Tasks for training rows alone, mixed likewise; their questions may be among those of ``tasks``.
        easier_share: Share of the training rows that is drawn from them.

    Returns:
        Split name to its rows, made as they are read. A split of 0 rows is left out.

    Raises:
        UserError: If a count is negative, all are 0, or there are too few questions.
    """
    counts = {"test": num_test, "validation": num_validation, "train": num_train}
    for name, count in counts.items():
        if count < 0:
            raise UserError(f"num_{name} ({count}) must not be negative; raise it to 0 or more.")
    num_wanted = sum(counts.values())
    if num_wanted == 0:
        raise UserError("num_train, num_validation and num_test are all 0; ask for at least one row.")
    num_easier = round(easier_share * num_train)
    rng = random.Random(seed)
    excluded = frozenset(exclude)
    asked = f"num_train + num_validation + num_test ({num_wanted:,})"
    places = _draw(tasks, num_wanted - num_easier, rng, excluded, asked)
    if num_easier:
        drawn = {line.partition("||")[0] for line in Split(places).text_lines()}
        asked = f"easier questions ({num_easier:,}: a share of {easier_share} of the training rows)"
        places += _draw(easier, num_easier, rng, excluded | drawn, asked)

    splits: dict[str, Split] = {}
    start = 0
    for name, count in counts.items():
        if count:
            splits[name] = Split(places[start : start + count])
        start += count
    return splits


@dataclass(frozen=True, slots=True)
class Split:
    """Rows that were drawn; made as they are read."""

    places: Sequence[tuple[Task, int]]
    """Task and number of each row's question."""

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[CoTRecord]:
        return (task.record_at(index) for task, index in self.places)

    def text_lines(self) -> Iterator[str]:
        """Yield the rows as ``to_text_line`` writes them."""
        for begin in range(0, len(self), ROWS_AT_ONCE):
            yield from _text_lines(self.places[begin : begin + ROWS_AT_ONCE])


def _draw(
    tasks: Sequence[Task], num_wanted: int, rng: random.Random, excluded: frozenset[str], asked: str
) -> list[tuple[Task, int]]:
    """Return so many different questions, none of them excluded.

    Raises:
        UserError: If there are too few; the message begins with what was asked for.
    """
    num_questions = sum(task.num_questions() for task in tasks)
    if num_wanted > num_questions:
        raise _too_few(asked, num_questions, num_excluded=0)
    drawn = sample_places(tasks, rng)
    places: list[tuple[Task, int]] = []
    num_excluded = 0
    while len(places) < num_wanted and (more := list(islice(drawn, min(num_wanted - len(places), ROWS_AT_ONCE)))):
        kept = _without(more, excluded) if excluded else more
        num_excluded += len(more) - len(kept)
        places += kept
    if len(places) < num_wanted:
        raise _too_few(asked, num_questions, num_excluded)
    return places


def _text_lines(places: Sequence[tuple[Task, int]]) -> list[str]:
    lines = [""] * len(places)
    numbers_of: dict[int, list[int]] = {}  # by identity: to hash a task, its whole table would be read
    for number, (task, _) in enumerate(places):
        numbers_of.setdefault(id(task), []).append(number)
    for numbers in numbers_of.values():
        made = places[numbers[0]][0].text_lines([places[number][1] for number in numbers])
        for number, line in zip(numbers, made, strict=True):
            lines[number] = line
    return lines


def _without(places: list[tuple[Task, int]], excluded: frozenset[str]) -> list[tuple[Task, int]]:
    questions = (line.partition("||")[0] for line in _text_lines(places))
    return [place for place, question in zip(places, questions, strict=True) if question not in excluded]


def sample_places(tasks: Sequence[Task], rng: random.Random) -> Iterator[tuple[Task, int]]:
    """Yield every question of every task once, in random order: first a task (uniformly), then one of its questions.

    Takes memory for the questions yielded so far only, and any number of questions.
    """
    unfinished = [(task, _shuffled(task.num_questions(), rng)) for task in tasks]
    while unfinished:
        chosen = rng.randrange(len(unfinished))
        task, indices = unfinished[chosen]
        index = next(indices, None)
        if index is None:
            del unfinished[chosen]
        else:
            yield task, index


def _shuffled(size: int, rng: random.Random) -> Iterator[int]:
    """Yield 0 to ``size - 1`` in random order: Fisher-Yates on a list of which only the changed places are stored."""
    moved: dict[int, int] = {}
    for place in range(size):
        other = rng.randrange(place, size)
        drawn = moved.pop(other, other)
        if other != place:
            moved[other] = moved.pop(place, place)
        yield drawn


def _too_few(asked: str, num_questions: int, num_excluded: int) -> UserError:
    without = f" less {num_excluded:,} excluded" if num_excluded else ""
    return UserError(
        f"{asked} must not be above the number of different questions "
        f"({num_questions:,}{without}); ask for fewer rows, or for longer questions."
    )
