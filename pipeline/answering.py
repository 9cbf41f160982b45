"""A saved model asked one question at a time, as evaluation asks it: the same tokens, positions and decoding."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec, load_spec
from pipeline.decoding import Prompt, greedy_decode, read_answer, room_for
from pipeline.errors import UserError, shortened
from pipeline.examples import make_layout
from pipeline.layout import EXTRA_TOKENS, SequenceLayout, assemble_prompt
from pipeline.modeling import load_for_inference
from pipeline.records import CoTRecord
from pipeline.row_text import SEPARATORS, resolve_format, tokenize_rows
from pipeline.stage_registry import model_folder
from pipeline.tasks.plain_form import TaskName, read_arithmetic, read_number

MOST_ANSWER_TOKENS = 256  # where no row says how long an answer may be
RIGHT, WRONG = "✓ right", "✗ wrong"
MOST_NAMED = 5  # unknown words in a message


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote to one question."""

    question: str
    """As typed."""
    asked: str
    """As the model reads it in its format: arithmetic in plain form is written as its task writes it."""
    cot: str
    """The chain of thought written; empty if there is none."""
    answer: str
    """As evaluation scores it."""
    number: int | None
    """The answer read back, if the question was arithmetic and the answer is a number."""
    expected: int | None
    """The right number, if the question was arithmetic."""
    num_tokens: int
    """Tokens written, the last end token not counted."""
    num_cot_tokens: int
    """Tokens of these before the second separator."""
    milliseconds: float
    """Of decoding."""

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None where that is not known."""
        return None if self.expected is None else self.number == self.expected

    @property
    def verdict(self) -> str:
        """Right or wrong, by sign and word; empty where that is not known."""
        return {None: "", True: RIGHT, False: f"{WRONG}: it is {self.expected}"}[self.correct]

    @property
    def shown(self) -> str:
        """The answer as people read it."""
        return self.answer if self.number is None else str(self.number)

    def to_json(self) -> dict[str, Any]:
        """Return all there is as a plain dictionary."""
        return {**asdict(self), "correct": self.correct}


class Answerer:
    """A saved model in memory.

    Attributes:
        folder: The model's own.
        spec: How it is asked.
    """

    def __init__(self, path: Path) -> None:
        """Load the model of a folder, or the best one of a run directory, and let it write once.

        Raises:
            UserError: If there is no model, or it cannot be loaded.
        """
        self.folder = model_folder(path)
        self.spec = load_spec(self.folder)
        self._model, self._tokenizer = load_for_inference(self.folder)
        self._templates = resolve_format(self.spec.format, self._tokenizer)
        self._word, self._layout = _find_layout(self.spec, self._templates, self._tokenizer, self.folder)
        warm_up = assemble_prompt((self._layout.end_id,), self._layout, self.spec.shift)
        greedy_decode(self._model, [Prompt(warm_up, 1)], self._layout, max_new_tokens=2, batch_size=1)

    def answer(self, question: str, task: TaskName = "auto") -> Answer:
        """Ask a question, greedily decoded.

        Args:
            question: As typed.
            task: How it is read; see ``read_arithmetic``.

        Raises:
            UserError: If it is empty, too long, no question of the task, or has a word that the model does not know.
        """
        typed = question.strip()
        if not typed:
            raise UserError("question is empty; write one.")
        arithmetic = read_arithmetic(typed, task)
        asked = arithmetic.record.question if arithmetic else typed
        prompt = self.prompt(asked)
        begin = time.perf_counter()
        (ids,) = greedy_decode(self._model, [prompt], self._layout, self._most_tokens(), batch_size=1)
        milliseconds = 1000 * (time.perf_counter() - begin)
        cot_ids, answer = read_answer(ids, self._layout, self._tokenizer)
        return Answer(
            typed,
            asked,
            self._tokenizer.decode(cot_ids).strip(),
            answer,
            read_number(answer) if arithmetic else None,
            arithmetic.result if arithmetic else None,
            len(ids),
            len(cot_ids),
            milliseconds,
        )

    def prompt(self, question: str) -> Prompt:
        """Return what evaluation would start from, had it read the question in a row.

        Whether the chain of thought of a question has ended before it is written cannot be known while some of it is
        left; then it counts as one that is written.

        Raises:
            UserError: If the question cannot be asked.
        """
        if unknown := _unknown_words(question, self._tokenizer):
            more = " and more" if len(unknown) > MOST_NAMED else ""
            named = ", ".join(map(_short, unknown[:MOST_NAMED]))
            raise UserError(f"question: not in the model's vocabulary: {named}{more}; write it otherwise.")
        try:
            row = _tokenize(question, self._word, self._templates, self._tokenizer)
        except UserError:
            row = None  # what it says is for those who prepare data
        if row is None or _layout_of(row, self.spec, self._tokenizer) != self._layout:
            raise UserError(
                f"question ({_short(question)}) cannot be written in the model's format, or melts into the separator "
                "behind it; write it otherwise."
            )
        spec, num_tokens = self.spec, len(row["question"])
        if spec.built_in_shift and num_tokens != spec.question_length:
            raise UserError(
                f"question ({_short(question)}) has {num_tokens} tokens, and the model's positions are built in for "
                f"{spec.question_length}; write as many, or take a model under stages/."
            )
        prompt = Prompt(
            assemble_prompt(tuple(row["question"]), self._layout, spec.shift),
            self._layout.num_end_tokens(has_cot=not spec.removes_all),
        )
        if room_for(self._model, prompt) < 1:
            raise UserError(
                f"question ({_short(question)}) has {num_tokens} tokens, too many for the "
                f"{self._model.config.max_position_embeddings} positions of the model; shorten it."
            )
        return prompt

    def _most_tokens(self) -> int:
        """Return the most tokens to write: what may be left of the longest CoT, and an answer."""
        spec = self.spec
        left = 0 if spec.removes_all else spec.longest_cot - (spec.num_removed if spec.unit == "token" else 0)
        return left + len(self._layout.second_separator_ids) + MOST_ANSWER_TOKENS + EXTRA_TOKENS


def _find_layout(
    spec: AnswerSpec, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase, folder: Path
) -> tuple[str, SequenceLayout]:
    """Return a word that stands for CoT and answer in the row of a question, and the layout of such rows.

    Raises:
        UserError: If the format makes no row.
    """
    for word in ("1", *sorted(tokenizer.get_vocab())):
        try:
            row = _tokenize(word, word, templates, tokenizer)
        except UserError:
            continue
        return word, _layout_of(row, spec, tokenizer)
    raise UserError(f"{folder}: its tokenizer cannot write rows in the format of its tacit.json; take another copy.")


def _layout_of(row: dict[str, list[int]], spec: AnswerSpec, tokenizer: PreTrainedTokenizerBase) -> SequenceLayout:
    return make_layout([row[part] for part in SEPARATORS], spec.format, tokenizer)


def _tokenize(
    question: str, word: str, templates: dict[str, str], tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """Tokenise a question as the row that it begins, for the word stands where CoT and answer would."""
    (row,) = tokenize_rows([CoTRecord(question, (word,), word)], templates, tokenizer)
    return row


def _unknown_words(question: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the words of a question, or its characters, that the tokenizer would lose."""
    words = question.split()
    pieces = dict.fromkeys(words if tokenizer.unk_token_id is not None else "".join(words))
    return [piece for piece in pieces if not _knows(piece, tokenizer)]


def _knows(piece: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        ids = tokenizer(piece, add_special_tokens=False).input_ids
    except Exception:  # what tokenizers raise has no class of its own
        return False
    unknown = tokenizer.unk_token_id
    # Where one token means both (GPT-2's), it is the end that was typed: such a tokenizer knows every byte.
    return bool(ids) and (unknown not in ids or unknown == tokenizer.eos_token_id)


def _short(text: str) -> str:
    return repr(shortened(text, 40))
