"""Whom an evaluation refuses, and how models are timed. What they write is in test_verification.py."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import evaluation
from pipeline.answer_spec import AnswerSpec
from pipeline.config import DataConfig, FormatConfig
from pipeline.decoding import Prompt
from pipeline.errors import UserError
from pipeline.evaluation import Contestant, evaluate, speeds_at_batch_one
from pipeline.examples import ExampleSet, load_examples
from pipeline.word_tokenizer import build_word_tokenizer

FORMAT = FormatConfig(
    question="{question}",
    first_separator=" = ",
    cot="{cot}",
    second_separator=" #### ",
    answer="{answer}",
    end=" {eos}",
)
SPEC = AnswerSpec(FORMAT, 0, False, "left", "token", False, longest_cot=1)


@pytest.fixture
def examples(tmp_path: Path) -> ExampleSet:
    """Three rows whose questions are 1, 2 and 3 tokens long."""
    rows = [{"question": "1 2 3"[: 2 * length - 1], "cot": "4", "answer": "5"} for length in (1, 2, 3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(cache_dir=str(tmp_path / "cache"))
    return load_examples(str(tmp_path / "rows.jsonl"), "", config, FORMAT, build_word_tokenizer())


def test_a_question_must_leave_the_model_a_position_for_its_answer(
    examples: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(num_positions: int) -> evaluation.Evaluation:
        model: Any = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=num_positions))
        return evaluate(model, build_word_tokenizer(), examples, SPEC, 4, verify=False)

    monkeypatch.setattr(evaluation, "greedy_decode", lambda model, prompts, *_: [[] for _ in prompts])
    assert len(ask(5).samples) == 3  # three tokens, the separator, and one that is written
    with pytest.raises(UserError, match="data: a question needs 5 positions, the model has 4; leave such rows out"):
        ask(4)


def test_models_take_turns_and_their_first_row_counts_when_they_are_warm(
    examples: ExampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, asked = 0.0, []

    def greedy_decode(model: Any, prompts: list[Prompt], *_: object, batch_size: int) -> None:
        nonlocal now
        (prompt,) = prompts
        now += model.seconds if asked else 100.0
        asked.append((model.name, len(prompt.row.input_ids) - 1))
        assert batch_size == 1

    def contestant(name: str, seconds: float) -> Contestant:
        model: Any = SimpleNamespace(name=name, seconds=seconds, device=SimpleNamespace(type="cpu"))
        return Contestant(model, build_word_tokenizer(), examples, SPEC)

    monkeypatch.setattr(evaluation, "greedy_decode", greedy_decode)
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: now))
    assert speeds_at_batch_one([contestant("a", 0.25), contestant("b", 0.5)], 2) == [4.0, 2.0]
    assert asked == [("a", 1), ("b", 1), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
