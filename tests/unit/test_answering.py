"""A typed question is asked as evaluation asks it; what cannot be asked is told in one line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from pipeline import answering
from pipeline.answer_spec import AnswerSpec
from pipeline.answering import Answer, Answerer
from pipeline.config import DataConfig, FormatConfig
from pipeline.decoding import Prompt
from pipeline.errors import UserError
from pipeline.evaluation import evaluate, make_prompts
from pipeline.examples import ExampleSet, load_examples
from pipeline.modeling import load_for_inference
from pipeline.records import CoTRecord, write_records
from pipeline.tasks import Multiplication
from pipeline.word_tokenizer import build_word_tokenizer
from tests.chat_style import INSTRUCT, build_chat_style
from tests.gpt2_style import build_gpt2_style

WORDS = FormatConfig("{question}", " = ", "{cot}", " #### ", "{answer}", " {eos}")
PAPER = FormatConfig()
CHAT = FormatConfig("{chat}", "", " {cot} ", "{eos}", " {answer} ", "{eos}")
PRODUCTS = [Multiplication(2, 2).record_at(index) for index in range(0, 8100, 700)]
TEXTS = [
    CoTRecord(question, ("<<1+2=3>>", "<<3*4=12>>"), "12")
    for question in ("how many apples", "1+2=3 apples  how many?", "a", "- 7 how", "Wie viele Äpfel → 12")
]


def save_model(
    folder: Path, tokenizer: PreTrainedTokenizerBase, row_format: FormatConfig, num_positions: int = 80, **fields: Any
) -> AnswerSpec:
    """Save a model with random weights as a run saves one."""
    torch.manual_seed(0)
    spec = AnswerSpec(
        row_format,
        **{"num_removed": 0, "removes_all": False, "side": "left", "unit": "token", "longest_cot": 8}
        | {"keep_positions": False}
        | fields,
    )
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=num_positions,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    spec.save(folder)
    return spec


def load_rows(folder: Path, spec: AnswerSpec, records: list[CoTRecord]) -> ExampleSet:
    """Read rows as an evaluation of the saved model does."""
    write_records(folder / "rows.jsonl", records)
    _, tokenizer = load_for_inference(folder)
    data = DataConfig(cache_dir=str(folder / "cache"))
    return load_examples(str(folder / "rows.jsonl"), "", data, spec.format, tokenizer)


@dataclass(frozen=True)
class Case:
    """A saved model and rows for it."""

    build: Callable[[], PreTrainedTokenizerBase]
    row_format: FormatConfig
    records: list[CoTRecord]
    fields: dict[str, Any]


CASES = {
    "words": Case(build_word_tokenizer, WORDS, PRODUCTS, {}),
    "words, kept positions": Case(build_word_tokenizer, WORDS, PRODUCTS, {"keep_positions": True, "num_removed": 5}),
    "paper": Case(build_gpt2_style, PAPER, PRODUCTS, {"num_removed": 3}),
    "paper, texts": Case(build_gpt2_style, PAPER, TEXTS, {}),
    "paper, all removed": Case(build_gpt2_style, PAPER, TEXTS, {"removes_all": True, "num_removed": 8}),
    "chat": Case(build_chat_style, CHAT, TEXTS, {"num_removed": 2}),
    "chat, other template": Case(lambda: build_chat_style(INSTRUCT), CHAT, TEXTS, {}),
    "second separator gone": Case(
        build_gpt2_style,
        FormatConfig(keep_second_separator=False),
        PRODUCTS,
        {"removes_all": True, "num_removed": 8, "keep_positions": True},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_typed_question_is_asked_and_answered_as_in_evaluation(
    tmp_path: Path, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = save_model(tmp_path, case.build(), case.row_format, **case.fields)
    examples = load_rows(tmp_path, spec, case.records)
    prompts, most_tokens = make_prompts(examples, spec)
    answerer = Answerer(tmp_path)
    for record, expected in zip(case.records, prompts, strict=True):
        assert_same(answerer.prompt(record.question), expected)
    # Only how long a model may ramble on differs: evaluation knows the longest answer.
    monkeypatch.setattr(Answerer, "_most_tokens", lambda _: most_tokens)
    model, tokenizer = load_for_inference(tmp_path)
    samples = evaluate(model, tokenizer, examples, spec, batch_size=4).samples
    for sample in samples:
        answer = answerer.answer(sample.question, "text")
        assert (answer.answer, answer.num_tokens, answer.num_cot_tokens) == (
            sample.prediction,
            sample.num_tokens,
            sample.num_cot_tokens,
        )
    assert len({sample.text for sample in samples}) > 2  # or agreement would say little


def assert_same(prompt: Prompt, expected: Prompt) -> None:
    assert np.array_equal(prompt.row.input_ids, expected.row.input_ids)
    assert np.array_equal(prompt.row.position_ids, expected.row.position_ids)
    assert prompt.num_end_tokens == expected.num_end_tokens


@pytest.fixture
def answerer(tmp_path: Path) -> Answerer:
    """A model that knows the words of the synthetic tasks and has 20 positions."""
    save_model(tmp_path, build_word_tokenizer(), WORDS, num_positions=20, removes_all=True, num_removed=8)
    return Answerer(tmp_path)


def test_plain_arithmetic_is_asked_in_digits(answerer: Answerer) -> None:
    plain, digits = answerer.answer(" 12 * 34 "), answerer.answer("2 1 * 4 3")
    assert (plain.question, plain.asked, plain.expected) == ("12 * 34", "2 1 * 4 3", 408)
    assert (digits.asked, digits.expected, digits.correct) == ("2 1 * 4 3", None, None)
    assert plain.answer == digits.answer
    assert answerer.answer("12 + 34 + 56").asked == "2 1 + 4 3 + 6 5"


@pytest.mark.parametrize(
    ("written", "number", "correct"),
    [("8 0 4 0", 408, True), ("8 0 4", 408, True), ("9 0 4 0", 409, False), ("8 x", None, False), ("", None, False)],
)
def test_an_answer_is_checked_against_arithmetic(
    answerer: Answerer, monkeypatch: pytest.MonkeyPatch, written: str, number: int | None, correct: bool
) -> None:
    ids = build_word_tokenizer()(f"1 2 #### {written}").input_ids
    monkeypatch.setattr(answering, "greedy_decode", lambda *_, **__: [ids])
    answer = answerer.answer("12 * 34")
    assert (answer.cot, answer.answer, answer.correct) == ("1 2", written, correct)
    assert answer.number == number
    assert (answer.num_tokens, answer.num_cot_tokens) == (len(ids), 2)
    assert answer.shown == (written if answer.number is None else str(answer.number))
    assert answer.to_json()["correct"] is correct


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("", "is empty"),
        (" \t ", "is empty"),
        ("how many 1 2", "not in the model's vocabulary: 'how', 'many';"),
        ("how many apples were there on the old tree", "'how', 'many', 'apples', 'were', 'there' and more;"),
        ("<unk>", "not in the model's vocabulary: '<unk>';"),
        ("\ud800", "not in the model's vocabulary:"),
        ("12 + 34", "not in the model's vocabulary: '12', '34';"),
        ("1 " * 30, "has 30 tokens, too many for the 20 positions"),
        ("0 * 7", "multiplies by 0"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(answerer: Answerer, question: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as refusal:
        answerer.answer(question)
    assert "\n" not in str(refusal.value)
    assert answerer.answer("1 * 2").expected == 2  # and the next one can


def test_a_question_as_long_as_the_positions_allow_is_answered(answerer: Answerer) -> None:
    assert answerer.answer("1 " * 18).num_tokens == 1
    with pytest.raises(UserError, match="has 19 tokens, too many"):
        answerer.answer("1 " * 19)


def test_positions_built_in_take_questions_of_one_length(tmp_path: Path) -> None:
    fields = {"removes_all": True, "num_removed": 8, "built_in_shift": 8, "question_length": 5}
    save_model(tmp_path, build_word_tokenizer(), WORDS, **fields)
    answerer = Answerer(tmp_path)
    assert answerer.answer("12 * 34").expected == 408
    with pytest.raises(UserError, match="has 3 tokens, and the model's positions are built in for 5"):
        answerer.answer("2 * 4")


def test_a_question_that_melts_into_the_separator_is_refused(tmp_path: Path) -> None:
    melting = FormatConfig("{question}", ">", " {cot} ", "{eos}", " {answer} ", "{eos}")
    save_model(tmp_path, build_gpt2_style(), melting)
    answerer = Answerer(tmp_path)
    assert answerer.answer("how many apples").num_tokens
    with pytest.raises(UserError, match="melts into the separator"):
        answerer.answer("a=")


def test_characters_that_a_tokenizer_would_drop_are_refused(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer()
    save_model(tmp_path, tokenizer, WORDS)
    answerer = Answerer(tmp_path)
    with pytest.raises(UserError, match="'ö'"):
        answerer.answer("1 ö 2")


def test_the_first_question_finds_the_model_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, build_word_tokenizer(), WORDS)
    decoded, really = [], answering.greedy_decode

    def record(*arguments: Any, **options: Any) -> list[list[int]]:
        decoded.append(arguments)
        return really(*arguments, **options)

    monkeypatch.setattr(answering, "greedy_decode", record)
    Answerer(tmp_path)
    assert len(decoded) == 1


def test_a_run_directory_means_its_best_model(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    save_model(tmp_path / "model", build_word_tokenizer(), WORDS)
    assert Answerer(tmp_path).folder == tmp_path / "model"
    with pytest.raises(UserError, match="holds no model"):
        Answerer(tmp_path / "nowhere")


def test_an_answer_whose_rightness_is_not_known_says_so() -> None:
    assert Answer("q", "q", "", "a", None, None, 1, 0, 1.0).correct is None
