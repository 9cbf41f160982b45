"""Accuracy by greedy exact match, each row counted once over all ranks; speed at batch size 1."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import mean

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec
from pipeline.decoding import Prompt, cut_at_end, greedy_decode, read_answer
from pipeline.errors import UserError
from pipeline.examples import ExampleSet
from pipeline.layout import EXTRA_TOKENS, assemble_prompt, assemble_row
from pipeline.ranks import gather_lists, rank, world_size
from pipeline.removal import CoTExample, remove_cot_tokens
from pipeline.scoring import ScoreReport, extract_answer, is_correct
from pipeline.verification import verified_decode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as the model answered it."""

    row: int
    question: str
    answer: str
    prediction: str
    correct: bool
    num_cot_tokens: int
    """Tokens written before the second separator."""
    num_tokens: int
    """Tokens written, the last end token not counted."""
    text: str
    """All that was written, special tokens included."""

    def to_json(self) -> dict[str, object]:
        """Return the fields as a plain dictionary."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rows of an evaluation, in order."""

    samples: tuple[Sample, ...]

    @property
    def score(self) -> ScoreReport:
        """Exact matches."""
        return ScoreReport(sum(sample.correct for sample in self.samples), len(self.samples))

    @property
    def accuracy(self) -> float:
        """Exact matches / rows."""
        return self.score.accuracy

    @property
    def mean_cot_tokens(self) -> float:
        """CoT tokens written, mean over rows."""
        return mean(sample.num_cot_tokens for sample in self.samples)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: ExampleSet,
    spec: AnswerSpec,
    batch_size: int,
    *,
    verify: bool = True,
) -> Evaluation:
    """Answer every row greedily, shared out over the ranks; each rank returns the whole result.

    Args:
        model: In evaluation mode, whole on this rank.
        tokenizer: Turns what was written into text.
        examples: The rows.
        spec: How they are written, and how much is removed.
        batch_size: Rows decoded together on one rank.
        verify: Whether decoding tries the reference answers first. This saves work where the model agrees with them;
            what is written is what greedy decoding writes.

    Raises:
        UserError: If a question is longer than the model, or of another length than is built into it.
    """
    if spec.built_in_shift and set(examples.lengths("question_ids").tolist()) != {spec.question_length}:
        raise UserError(
            f"data: the model has kept positions built in for questions of {spec.question_length} tokens; take such "
            "rows, or a model under stages/."
        )
    prompts, max_new_tokens = make_prompts(examples, spec)
    _check_positions(model, prompts)
    mine = range(rank(), len(examples), world_size())
    own = [prompts[i] for i in mine]
    if verify:
        references = make_references(examples, spec, mine)
        written = verified_decode(model, own, references, examples.layout, max_new_tokens, batch_size)
    else:
        written = greedy_decode(model, own, examples.layout, max_new_tokens, batch_size)
    questions, answers = examples.texts("question", mine), examples.texts("answer", mine)
    samples = [
        _sample(i, question, answer, ids, examples, tokenizer)
        for i, question, answer, ids in zip(mine, questions, answers, written, strict=True)
    ]
    return Evaluation(tuple(sorted(gather_lists(samples), key=lambda sample: sample.row)))


def check_answers(examples: ExampleSet, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn of answers that tokenising and decoding change, as to lower case: no model can be right there.

    Raises:
        UserError: If it gives back none at all.
    """
    rows, layout = range(len(examples)), examples.layout
    wanted = map(extract_answer, examples.texts("answer", rows))
    ids = (cut_at_end(row.answer_ids, layout.end_id, 1) for row in examples.take(rows))
    written = (read_answer(answer_ids, layout, tokenizer)[1] for answer_ids in ids)
    lost = [pair for pair in zip(wanted, written, strict=True) if pair[0] != pair[1]]
    if not lost:
        return
    answer, text = lost[0]
    fault = (
        f"of {len(rows)} answers the tokenizer gives back {len(lost)} as something else, such as {answer!r} as {text!r}"
    )
    if len(lost) == len(rows):
        raise UserError(f"data: {fault}; write them as it does, or take another tokenizer: no model could be right.")
    logger.warning("%s: no model can be right there", fault)


def _check_positions(model: PreTrainedModel, prompts: Sequence[Prompt]) -> None:
    needed = max(int(prompt.row.position_ids[-1]) + 2 for prompt in prompts)  # one token of answer at least
    if needed > model.config.max_position_embeddings:
        raise UserError(
            f"data: a question needs {needed} positions, the model has {model.config.max_position_embeddings}; leave "
            "such rows out, or take a model with more positions."
        )


def make_prompts(examples: ExampleSet, spec: AnswerSpec) -> tuple[list[Prompt], int]:
    """Return each row's prompt, and the most tokens to write: the longest remaining target and a few more."""
    prompts, longest = [], 0
    for left in _take(examples, spec, range(len(examples))):
        has_cot = bool(left.cot_ids)
        target = len(left.cot_ids) + len(examples.layout.second_separator(has_cot)) + len(left.answer_ids)
        longest = max(longest, target)
        row = assemble_prompt(left.question_ids, examples.layout, spec.shift)
        prompts.append(Prompt(row, examples.layout.num_end_tokens(has_cot)))
    return prompts, longest + EXTRA_TOKENS


def make_references(examples: ExampleSet, spec: AnswerSpec, indices: Sequence[int]) -> list[list[int]]:
    """Return what a model that makes no mistake writes behind the prompts of some rows, end token included."""
    rows = (assemble_row(left, examples.layout) for left in _take(examples, spec, indices))
    return [row.input_ids[row.label_start :].tolist() for row in rows]


def _take(examples: ExampleSet, spec: AnswerSpec, indices: Sequence[int]) -> Iterator[CoTExample]:
    """Yield what is left of some rows."""
    for example in examples.take(indices):
        amount = len(example.cot_ids) if spec.removes_all else spec.num_removed
        yield remove_cot_tokens(example, amount, spec.side, spec.unit, spec.right_first)


def _sample(
    row: int, question: str, answer: str, ids: list[int], examples: ExampleSet, tokenizer: PreTrainedTokenizerBase
) -> Sample:
    cot_ids, prediction = read_answer(ids, examples.layout, tokenizer)
    return Sample(
        row=row,
        question=question,
        answer=answer,
        prediction=prediction,
        correct=is_correct(prediction, answer),
        num_cot_tokens=len(cot_ids),
        num_tokens=len(ids),
        text=tokenizer.decode(ids),
    )


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model with the rows that it is asked, evaluated beside others."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    examples: ExampleSet
    spec: AnswerSpec

    def evaluate(self, batch_size: int, *, verify: bool = True) -> Evaluation:
        """Answer the rows as ``evaluate`` does."""
        return evaluate(self.model, self.tokenizer, self.examples, self.spec, batch_size, verify=verify)


def speeds_at_batch_one(contestants: Sequence[Contestant], num_examples: int) -> list[float]:
    """Return each model's examples per second at batch size 1.

    Every token is decoded: nothing here sees a reference answer. The models take turns row by row, so that what else
    the machine does weighs on all alike.
    """
    plans = [make_prompts(contestant.examples.head(num_examples), contestant.spec) for contestant in contestants]
    num_timed = min(len(prompts) for prompts, _ in plans)
    seconds = [0.0] * len(contestants)
    for i in (0, *range(num_timed)):
        if i == 0:
            seconds = [0.0] * len(contestants)  # the first row is taken twice, to warm up
        for k, (contestant, (prompts, max_new_tokens)) in enumerate(zip(contestants, plans, strict=True)):
            begin = time.perf_counter()
            greedy_decode(contestant.model, [prompts[i]], contestant.examples.layout, max_new_tokens, batch_size=1)
            if contestant.model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[k] += time.perf_counter() - begin
    return [num_timed / total for total in seconds]
