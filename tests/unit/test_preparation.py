"""Training and validation rows that do not go together are refused before a run begins."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.config import Config, DataConfig, FormatConfig
from pipeline.errors import UserError
from pipeline.preparation import load_data

FORMAT = FormatConfig(
    question="{question}", first_separator="=>", cot="{cot}", second_separator="#", answer="{answer}", end="{eos}"
)


def letters() -> PreTrainedTokenizerFast:
    """Each letter is a token, and so is an arrow behind a b; behind others it is two."""
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<unk>", "=>", *"=>#abcdxy"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=b)=>|."), behavior="isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


def config_of(folder: Path, train: list[str], validation: list[str]) -> Config:
    for name, questions in (("train", train), ("validation", validation)):
        rows = [{"question": question, "cot": "x", "answer": "y"} for question in questions]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = {name: str(folder / f"{name}.jsonl") for name in ("train", "validation")}
    return Config(DataConfig(**sources, cache_dir=str(folder / "cache")), FORMAT)


def test_separators_must_make_the_same_tokens_in_both_files(tmp_path: Path) -> None:
    load_data(config_of(tmp_path, ["ca", "da"], ["aa"]), letters())
    with pytest.raises(UserError, match="data.validation: the separators make other tokens than in data.train"):
        load_data(config_of(tmp_path, ["ca", "da"], ["cb", "db"]), letters())
