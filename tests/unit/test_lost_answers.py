"""Answers that a tokenizer does not give back are told before anything is measured by them."""

import json
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.answer_spec import AnswerSpec
from pipeline.comparison import load_contestant
from pipeline.config import Config, DataConfig, FormatConfig
from pipeline.decoding import read_answer
from pipeline.errors import UserError
from pipeline.evaluation import check_answers
from pipeline.examples import ExampleSet, load_examples
from pipeline.preparation import load_data

WORDS = ["<pad>", "<eos>", "<unk>", "=", "####", "yes", "no", "a", "b", ",", "."]
FORMAT = FormatConfig(
    question="{question}",
    first_separator=" = ",
    cot="{cot}",
    second_separator=" #### ",
    answer="{answer}",
    end=" {eos}",
)


def in_lower_case(**settings: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.normalizer = normalizers.Lowercase()
    special = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **settings)


def examples(folder: Path, *answers: str) -> ExampleSet:
    rows = [{"question": f"a b {'a ' * i}", "cot": "a", "answer": answer} for i, answer in enumerate(answers)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_examples(str(path), "", DataConfig(cache_dir=str(folder / "cache")), FORMAT, in_lower_case())


def test_some_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_answers(examples(tmp_path, "Yes", "no", "a  b", "yes"), in_lower_case())
    assert "of 4 answers the tokenizer gives back 2 as something else, such as 'Yes' as 'yes'" in caplog.text


def test_with_all_of_them_nothing_can_be_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data: of 2 answers .* gives back 2 .*take another tokenizer"):
        check_answers(examples(tmp_path, "Yes", "No"), in_lower_case())


def test_a_run_asks_its_validation_rows_and_a_comparison_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"train": ("a b", "yes"), "validation": ("b a", "Yes")}
    for name, (question, answer) in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": question, "cot": "a", "answer": answer}))
    sources = {name: str(tmp_path / f"{name}.jsonl") for name in rows}
    data = DataConfig(**sources, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="data: of 1 answers .* 'Yes' as 'yes'"):
        load_data(Config(data, FORMAT), in_lower_case())
    AnswerSpec(FORMAT, 0, False, "left", "token", False, longest_cot=1).save(tmp_path)
    monkeypatch.setattr("pipeline.comparison.load_for_inference", lambda *_: (None, in_lower_case()))
    with pytest.raises(UserError, match="data: of 1 answers .* 'Yes' as 'yes'"):
        load_contestant(tmp_path, data)


def test_none_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_answers(examples(tmp_path, "yes", "no", " a b "), in_lower_case())
    assert caplog.text == ""


def test_blanks_before_punctuation_stay(tmp_path: Path) -> None:
    tidy = in_lower_case(clean_up_tokenization_spaces=True)
    layout = examples(tmp_path, "yes").layout
    assert read_answer([WORDS.index(word) for word in ("a", ".")], layout, tidy)[1] == "a ."
