"""Rows tokenised by their words are what they are as whole texts, and doubtful ones are left to the slow way."""

import random
from collections.abc import Iterator

import pytest
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.config import FormatConfig
from pipeline.errors import UserError
from pipeline.records import CoTRecord
from pipeline.records.columns import RecordColumns
from pipeline.row_text import resolve_format
from pipeline.tasks import Addition, Multiplication
from pipeline.token_table import RowTokenizer
from pipeline.word_rows import WordTokenizer, cuts_at_blanks
from pipeline.word_tokenizer import build_word_tokenizer
from tests.gpt2_style import END, build_gpt2_style, train_bpe


def build(pre_tokenizer: pre_tokenizers.PreTokenizer, **settings: object) -> PreTrainedTokenizerFast:
    """Return a BPE without an unknown token: it drops what it does not know."""
    return PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(pre_tokenizer, vocab_size=120, all_bytes=False), eos_token=END, **settings
    )


TOKENIZERS = {
    "gpt2": build_gpt2_style(),
    "gpt2 trimmed": build_gpt2_style(trim_offsets=True),
    "gpt2 few merges": build_gpt2_style(trim_offsets=True, vocab_size=280),  # a word's blank is a token of its own
    "drops": build(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "drops, split": build(pre_tokenizers.WhitespaceSplit()),
    "words": build_word_tokenizer(),
}
FORMATS = {
    "paper": FormatConfig(),
    "demo": FormatConfig(
        question="{question}", first_separator=" = ", cot="{cot}", second_separator=" #### ", answer="{answer}"
    ),
    "blanks before": FormatConfig(
        question="{question}", first_separator=" =", cot=" {cot}", second_separator=" ####", answer=" {answer}"
    ),
    "glued to ends": FormatConfig(question="{question}", cot="{cot}", answer="{answer}"),
    "no separators": FormatConfig(
        question=" {question} ", first_separator="", cot=" {cot}", second_separator="", answer=" {answer} "
    ),
    # Without a CoT the second separator is another token: no blank stands before it.
    "bare separator": FormatConfig(question=" {question} ", second_separator="=", answer=" {answer}"),
    "sign before": FormatConfig(question="({question} ", first_separator="=", cot="={cot} ", answer="={answer} "),
    "sign behind": FormatConfig(question=" {question}>", cot=" {cot}>", answer=" {answer}>"),
    "signs around": FormatConfig(question="a {question} b", cot=" ( {cot} )", answer=" + {answer} ="),
    "line ends": FormatConfig(question="\n{question}\n", first_separator="", cot=" {cot}\n", answer="= {answer} "),
    "twice": FormatConfig(question="{question} {question}"),
}
# Where every row of common words is tokenised by its words.
ALWAYS_SURE = [
    *(("gpt2", name) for name in ("paper", "blanks before", "glued to ends", "no separators")),
    *(("gpt2 trimmed", name) for name in ("paper", "blanks before", "glued to ends", "no separators")),
    *(("words", name) for name in ("paper", "demo", "blanks before", "glued to ends", "no separators", "signs around")),
]
COMMON = ["0", "1", "3", "+", "a", "(", ")", "####"]
ODD = [
    *("12", "how", "=>", "a=", "<<1+2=3>>", "it's", "'s", "é", "→", "😀", "b\nc", "\t", "zq", "<|", "|>", ""),
    *(END, f"x{END}", f"{END}{END}", "<eos>", "<unk>"),
]


class ByRows(RowTokenizer):
    """Tokenises every row as one text."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._words = self  # type: ignore[assignment]

    def tokenize(self, rows: RecordColumns) -> Iterator[object]:
        """Be sure of no row."""
        return iter(())


def outcome(kind: type[RowTokenizer], batches: list[RecordColumns], tokenizer: str, row_format: str) -> object:
    templates = resolve_format(FORMATS[row_format], TOKENIZERS[tokenizer])
    row_tokenizer = kind(templates, TOKENIZERS[tokenizer])
    try:
        tables = [row_tokenizer.table(batch) for batch in batches]
    except UserError as error:
        return str(error)
    return row_tokenizer.separators, [table.to_pydict() for table in tables]


def sure_rows(rows: RecordColumns, tokenizer: str, row_format: str) -> list[int]:
    words = WordTokenizer(resolve_format(FORMATS[row_format], TOKENIZERS[tokenizer]), TOKENIZERS[tokenizer])
    return sorted(number for found, _, _ in words.tokenize(rows) for number in found.tolist())


def draw_text(rng: random.Random, words: list[str]) -> str:
    while not (text := " ".join(rng.choices(words, k=rng.randint(1, 4)))).strip():
        pass
    return text


def draw_rows(rng: random.Random, words: list[str]) -> list[CoTRecord]:
    return [
        CoTRecord(
            draw_text(rng, words),
            tuple(draw_text(rng, words) for _ in range(rng.choice([0, 1, 1, 3]))),
            draw_text(rng, words),
        )
        for _ in range(5)
    ]


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_any_rows_come_out_as_whole_texts_do(tokenizer: str, row_format: str) -> None:
    rng = random.Random(f"{tokenizer} {row_format}")
    for words in [COMMON, ["0", "zq", "1"], *(["0", "+", "a", odd] for odd in ODD)]:
        batches = [RecordColumns.of(draw_rows(rng, words)) for _ in range(2 if words is COMMON else 1)]
        by_words, by_rows = (outcome(kind, batches, tokenizer, row_format) for kind in (RowTokenizer, ByRows))
        assert by_words == by_rows, [batch.records() for batch in batches]


@pytest.mark.parametrize(("tokenizer", "row_format"), ALWAYS_SURE)
def test_ordinary_rows_are_tokenised_by_words(tokenizer: str, row_format: str) -> None:
    rows = draw_rows(random.Random(0), COMMON)
    assert sure_rows(RecordColumns.of(rows), tokenizer, row_format) == list(range(len(rows)))


@pytest.mark.parametrize("tokenizer", ["gpt2 trimmed", "words"])
def test_generated_rows_come_out_as_whole_texts_do(tokenizer: str) -> None:
    rows = [task.record_at(7 * i) for task in (Multiplication(4, 4), Addition(3, 2)) for i in range(200)]
    columns = RecordColumns.of(rows)
    assert len(sure_rows(columns, tokenizer, "paper")) == 400
    assert outcome(RowTokenizer, [columns], tokenizer, "paper") == outcome(ByRows, [columns], tokenizer, "paper")


@pytest.mark.parametrize(
    "odd", ["é", "a\tb", "a\nb", "x  y", " x", "x ", f"1{END}2", "→", "\u00a0", "a\u2028b", "x\x00"], ids=ascii
)
def test_rows_in_doubt_are_left_out(odd: str) -> None:
    plain = CoTRecord("1", ("2", "3"), "4")
    for row in (CoTRecord(odd, ("2",), "4"), CoTRecord("1", ("2", odd), "4"), CoTRecord("1", (), odd)):
        assert sure_rows(RecordColumns.of([plain, row, plain]), "gpt2 trimmed", "paper") == [0, 2]


def test_steps_keep_their_tokens() -> None:
    rows = RecordColumns.of([CoTRecord("1", ("how many", "12", "<<1+2=3>> a"), "4"), CoTRecord("1", (), "4")])
    table = ByRows(resolve_format(FORMATS["paper"], TOKENIZERS["gpt2"]), TOKENIZERS["gpt2"]).table(rows)
    found = dict(outcome(RowTokenizer, [rows], "gpt2", "paper")[1][0])  # type: ignore[index]
    assert found["cot_step_lengths"] == table["cot_step_lengths"].to_pylist()
    assert [len(lengths) for lengths in found["cot_step_lengths"]] == [3, 0]
    assert [sum(lengths) for lengths in found["cot_step_lengths"]] == [len(ids) for ids in found["cot_ids"]]


# Tokenizers of which it is not known that they cut at blanks


def with_normalizer() -> PreTrainedTokenizerFast:
    tokenizer = build_gpt2_style()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def with_dropout() -> PreTrainedTokenizerFast:
    tokenizer = build_gpt2_style()
    tokenizer.backend_tokenizer.model.dropout = 0.5
    return tokenizer


def with_token(content: str, **flags: bool) -> PreTrainedTokenizerFast:
    tokenizer = build_gpt2_style()
    tokenizer.add_tokens([AddedToken(content, **flags)])
    return tokenizer


def with_unigram() -> PreTrainedTokenizerFast:
    tokenizer = build_word_tokenizer()
    backend = tokenizer.backend_tokenizer
    backend.model = models.Unigram([("<unk>", 0.0), ("1", -1.0)], unk_id=0)
    return tokenizer


def as_ordinary_text() -> PreTrainedTokenizerFast:
    tokenizer = build_gpt2_style()
    tokenizer.split_special_tokens = True
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        build(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        build(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
        build(pre_tokenizers.Metaspace()),
        build(pre_tokenizers.Whitespace()),
        with_normalizer(),
        with_dropout(),
        with_unigram(),
        as_ordinary_text(),
        with_token("<one two>"),
        with_token("<x>", lstrip=True),
        with_token("<x>", rstrip=True),
        with_token("<x>", single_word=True),
        with_token("aba"),  # in `aba` + `ba` it could stand twice
        with_token(f"{END}x"),
    ],
)
def test_other_tokenizers_are_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not cuts_at_blanks(tokenizer)
    rows = RecordColumns.of([CoTRecord("1", ("2",), "3")])
    assert list(WordTokenizer(resolve_format(FORMATS["paper"], tokenizer), tokenizer).tokenize(rows)) == []
