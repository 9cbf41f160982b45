"""From rows of text to token ids: borders, separators, vocabulary, cache."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline import examples
from pipeline.config import DataConfig, FormatConfig
from pipeline.errors import UserError
from pipeline.examples import ExampleSet, assert_disjoint, load_examples
from pipeline.records import CoTRecord, columns
from pipeline.records.columns import RecordColumns
from pipeline.removal import CoTExample
from pipeline.row_text import PARTS, render_parts, resolve_format, tokenize_rows
from pipeline.tasks.multiplication import make_record
from pipeline.token_table import RowTokenizer
from pipeline.word_tokenizer import build_word_tokenizer
from tests.gpt2_style import END, build_gpt2_style

GPT2_STYLE = build_gpt2_style()
GPT2_STYLE_TRIMMED = build_gpt2_style(trim_offsets=True)
WORDS = build_word_tokenizer()
TOKENIZERS = pytest.mark.parametrize(
    "tokenizer", [GPT2_STYLE, GPT2_STYLE_TRIMMED, WORDS], ids=["gpt2", "gpt2 trimmed", "words"]
)
PAPER = FormatConfig()
PRODUCT = make_record(1234, 5678, 4)
EQUATIONS = CoTRecord("how many", ("<<1+2=3>>", "<<4*5=20>>", "<<3*20=60>>"), "60")


def tokenize(record: CoTRecord, tokenizer: PreTrainedTokenizerBase, row_format: FormatConfig = PAPER) -> dict:
    (row,) = tokenize_rows([record], resolve_format(row_format, tokenizer), tokenizer)
    return row


def joined(row: dict[str, list[int]]) -> list[int]:
    return [token for part in PARTS for token in row[part]]


# Tokens and parts


@pytest.mark.parametrize(
    # The text shows 46 words of CoT; before the second separator the paper's format leaves a blank, a token in GPT-2.
    ("tokenizer", "num_cot"),
    [(GPT2_STYLE, 47), (GPT2_STYLE_TRIMMED, 47), (WORDS, 46)],
    ids=["gpt2", "gpt2 trimmed", "words"],
)
def test_4x4_multiplication_in_the_papers_format(tokenizer: PreTrainedTokenizerBase, num_cot: int) -> None:
    assert len(PRODUCT.cot.split()) == 46
    row = tokenize(PRODUCT, tokenizer)
    assert len(row["cot"]) == num_cot
    assert row["first_separator"] == row["second_separator"] == row["end"] == [tokenizer.eos_token_id]
    # 1234 * 5678 = 7006652, least significant digit first, in 8 digits.
    assert tokenizer.decode(row["question"]).split() == list("4321*8765")
    assert tokenizer.decode(row["answer"]).split() == ["####", *"25660070"]
    assert tokenizer.eos_token_id not in row["question"] + row["cot"] + row["answer"]


@TOKENIZERS
@pytest.mark.parametrize(
    "row_format",
    [
        PAPER,
        FormatConfig(
            question="{question}", first_separator=" =", cot=" {cot}", second_separator="", answer=" {answer}"
        ),
        FormatConfig(question="{question}", first_separator=" = =", cot=" {cot}", second_separator=" ####"),
    ],
    ids=["paper", "one separator", "two tokens"],
)
@pytest.mark.parametrize(
    "record", [PRODUCT, CoTRecord("3 * 4", (), "1 2"), CoTRecord("3", ("4",), "5")], ids=["4x4", "no CoT", "short"]
)
def test_parts_join_to_the_ids_of_the_whole_text(
    record: CoTRecord, row_format: FormatConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    row = tokenize(record, tokenizer, row_format)
    whole = "".join(render_parts(record, resolve_format(row_format, tokenizer), tokenizer))
    assert joined(row) == tokenizer(whole, add_special_tokens=False).input_ids
    assert bool(row["cot"]) == bool(record.steps)
    assert sum(row["cot_step_lengths"]) == len(row["cot"])
    assert len(row["cot_step_lengths"]) == len(record.steps)


TEXT = st.text("01a =<>é→😀\n", max_size=12).map(str.strip)


@settings(max_examples=60, deadline=None)
@given(TEXT, st.lists(TEXT.filter(bool), max_size=4), TEXT, st.booleans())
def test_any_text_joins_to_its_ids(question: str, steps: list[str], answer: str, trimmed: bool) -> None:
    tokenizer = GPT2_STYLE_TRIMMED if trimmed else GPT2_STYLE
    record = CoTRecord(question, tuple(steps), answer)
    row = tokenize(record, tokenizer)
    parts = render_parts(record, resolve_format(PAPER, tokenizer), tokenizer)
    assert joined(row) == tokenizer("".join(parts)).input_ids
    assert row["first_separator"] == row["second_separator"] == row["end"] == [tokenizer.eos_token_id]
    assert tokenizer.decode(row["cot"]) == (f" {record.cot} " if steps else "")
    assert sum(row["cot_step_lengths"]) == len(row["cot"])


def test_step_lengths_cut_where_equations_meet() -> None:
    tokenizer = GPT2_STYLE
    row = tokenize(EQUATIONS, tokenizer)
    first, second, third = row["cot_step_lengths"]
    assert first + second + third == len(row["cot"])
    # The blank before an equation is part of its first token; the last blank belongs to the last step.
    assert tokenizer.decode(row["cot"][:first]) == " <<1+2=3>>"
    assert tokenizer.decode(row["cot"][first : first + second]) == " <<4*5=20>>"
    assert tokenizer.decode(row["cot"][first + second :]) == " <<3*20=60>> "


def test_multiplication_steps_in_words() -> None:
    # Partial product and sums of 4x4: 5 digits; + 6; ( 6 ); + 7; ( 7 ); + 8.
    assert tokenize(PRODUCT, WORDS)["cot_step_lengths"] == [5, 7, 8, 8, 9, 9]


# Refusals

TIGHT = FormatConfig(question="{question}", first_separator="=", cot="{cot}", second_separator=END, answer="{answer}")


@pytest.mark.parametrize("tokenizer", [GPT2_STYLE, GPT2_STYLE_TRIMMED], ids=["gpt2", "gpt2 trimmed"])
def test_a_separator_that_merges_with_its_neighbour_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(tokenizer("=>").input_ids) == 1  # or there is nothing to refuse
    with pytest.raises(UserError, match=r"question '12'.*'=>' reaches over the border.*format\."):
        tokenize(CoTRecord("12", (">3",), "4"), tokenizer, TIGHT)


def test_a_prompt_that_reads_differently_alone_is_refused() -> None:
    # Alone, the blank is a token; before a word it is the word's first letter, and the offsets do not show it.
    row_format = FormatConfig(question="{question}", first_separator=" ", cot="{cot}")
    with pytest.raises(UserError, match=r"question '12'.*other tokens alone.*first_separator"):
        tokenize(CoTRecord("12", ("3",), "4"), GPT2_STYLE_TRIMMED, row_format)


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UserError, match=r"question '1 plus 2'.*'plus'.*vocabulary.*model\.tokenizer"):
        tokenize(CoTRecord("1 plus 2", ("3",), "3"), WORDS)


SPACED = FormatConfig("{question}", " = ", "{cot}", " #### ", "{answer}")


@pytest.mark.parametrize(
    ("row_format", "says"),
    [
        (replace(SPACED, second_separator=""), "'22', which comes of format.second_separator ('')"),
        (replace(SPACED, first_separator=" so "), "'so', which comes of format.first_separator (' so ')"),
        (replace(SPACED, cot="<think> {cot}"), "'<think>', which comes of format.cot ('<think> {cot}')"),
        (replace(SPACED, cot="<unk> {cot}"), "'<unk>', which comes of format.cot ('<unk> {cot}')"),
    ],
)
def test_unknown_words_of_the_format_are_told_with_their_setting(row_format: FormatConfig, says: str) -> None:
    with pytest.raises(UserError) as caught:
        tokenize(CoTRecord("1 + 1", ("0", "2"), "2"), WORDS, row_format)
    assert f"{says}, is not in the tokenizer's vocabulary" in str(caught.value)
    # Where blanks stand around it, an empty separator is fine.
    assert tokenize(CoTRecord("1", ("0",), "2"), WORDS, FormatConfig(second_separator=""))["second_separator"] == []


def test_an_end_token_that_is_also_the_unknown_one_is_no_unknown_word() -> None:
    assert GPT2_STYLE.unk_token_id == GPT2_STYLE.eos_token_id
    assert tokenize(CoTRecord("→ é", ("1",), "2"), GPT2_STYLE)["cot"]


def test_a_special_token_that_is_missing_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=GPT2_STYLE.backend_tokenizer)
    with pytest.raises(UserError, match=r"format\.first_separator.*\{eos\}"):
        resolve_format(PAPER, tokenizer)


def test_beginning_token_is_written_where_the_tokenizer_writes_one() -> None:
    assert resolve_format(PAPER, GPT2_STYLE)["question"] == " {question} "  # GPT-2 has one, and does not use it
    assert resolve_format(PAPER, WORDS)["question"] == " {question} "
    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "1": 2}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    llama_style = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    assert resolve_format(PAPER, llama_style)["question"] == "<s> {question} "
    # Once, not twice: the text names it, so the tokenizer must not add its own.
    assert tokenize(CoTRecord("1", ("1",), "1"), llama_style)["question"] == [0, 2]


# Files and cache


class Source:
    """A file of rows, and a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rows.jsonl"
        self.cache_dir = folder / "cache"

    def write(self, *rows: tuple[str, str, str] | str) -> None:
        """Write (question, CoT, answer) rows; a text stands as it is."""
        lines = [
            row if isinstance(row, str) else json.dumps(dict(zip(("question", "cot", "answer"), row, strict=True)))
            for row in rows
        ]
        self.path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def load(
        self, row_format: FormatConfig = PAPER, tokenizer: PreTrainedTokenizerBase = WORDS, **config: object
    ) -> ExampleSet:
        """Load the file's rows."""
        data = DataConfig(cache_dir=str(self.cache_dir), **config)  # type: ignore[arg-type]
        return load_examples(str(self.path), "train", data, row_format, tokenizer)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Three rows, of 2, 3 and 0 CoT tokens."""
    source = Source(tmp_path)
    source.write(("1 + 1", "0 2", "2"), ("1 + 2", "0 1 2", "3"), ("4", "", "4"))
    return source


def test_rows_come_back_as_parts(source: Source) -> None:
    rows = source.load()
    ids = {word: WORDS.convert_tokens_to_ids(word) for word in ("0", "1", "2", "3", "+", "####", "<eos>", "<pad>")}
    (second, first) = rows.take([1, 0])
    assert first.question_ids == (ids["1"], ids["+"], ids["1"])
    assert first.cot_ids == (ids["0"], ids["2"])
    assert first.answer_ids == (ids["####"], ids["2"], ids["<eos>"])
    assert second.answer_ids[1] == ids["3"]
    assert rows.take([2])[0].cot_ids == rows.take([2])[0].cot_step_lengths == ()
    assert rows.texts("question", [2, 0]) == ["4", "1 + 1"]
    assert rows.texts("answer", [1]) == ["3"]
    assert rows.layout.first_separator_ids == rows.layout.second_separator_ids == (ids["<eos>"],)
    assert (rows.layout.end_id, rows.layout.pad_id) == (ids["<eos>"], ids["<pad>"])
    assert rows.lengths("cot_ids").tolist() == [2, 3, 0]
    assert (rows.longest_cot("token"), rows.longest_cot("step")) == (3, 1)
    assert rows.longest_row() == 3 + 1 + 3 + 1 + 3
    assert rows.longest_row(longest_cot=5) == 3 + 1 + 5 + 1 + 3  # kept positions leave room for the longest CoT


def test_rows_are_taken_from_every_part_of_the_file(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 3)  # so that the cache holds four batches
    lengths = [4, 0, 2, 5, 1, 0, 3, 2, 6, 1]
    source.write(*(("1 + " * i + "1", " ".join("12345678"[:length]), str(i)) for i, length in enumerate(lengths)))
    rows = source.load()
    table = rows.rows
    assert len(table["cot_ids"].chunks) == 4
    names = ("question_ids", "cot_ids", "answer_ids", "cot_step_lengths")
    expected = [CoTExample(*map(tuple, row)) for row in zip(*(table[name].to_pylist() for name in names), strict=True)]
    assert [len(row.cot_ids) for row in expected] == lengths
    for numbers in ([9, 0, 3, 3, 2, 8, 0], range(10), np.array([5, 5, 4]), []):
        taken = rows.take(numbers)
        assert taken == [expected[number] for number in numbers]
        assert all(type(token) is int for row in taken for token in row.cot_ids)
    assert rows.head(5).take([4, 3]) == [expected[4], expected[3]]
    for number in (-1, 10):
        with pytest.raises(IndexError):
            rows.take([0, number])
    for beyond in (-1, 5):
        with pytest.raises(IndexError):
            rows.head(5).take([beyond])
    monkeypatch.undo()
    source.write(("1 + 1", "0 2", "2"))
    with pytest.raises(IndexError):
        source.load().take([-1])


def test_head_is_the_first_rows(source: Source) -> None:
    rows = source.load()
    assert len(rows.head(1)) == 1
    assert rows.head(1).longest_cot("token") == 2
    assert rows.head(1).take([0]) == rows.take([0])
    assert len(rows.head(None)) == len(rows.head(99)) == 3


def test_a_tokenizer_without_padding_pads_with_the_end(source: Source) -> None:
    layout = source.load(tokenizer=GPT2_STYLE).layout
    assert layout.pad_id == layout.end_id == GPT2_STYLE.eos_token_id


@pytest.fixture
def tokenizations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each call that tokenises: none when the cache is hit."""
    calls: list[int] = []

    class Counting(RowTokenizer):
        def table(self, rows: RecordColumns) -> pa.Table:
            calls.append(len(rows))
            return super().table(rows)

    monkeypatch.setattr(examples, "RowTokenizer", Counting)
    return calls


def test_the_second_time_is_read_from_the_cache(source: Source, tokenizations: list[int]) -> None:
    first, second = source.load(), source.load()
    assert tokenizations == [3]
    assert first.take(range(3)) == second.take(range(3))
    assert first.layout == second.layout
    # The layout is no part of the tokens: the separator's fate is decided later.
    assert not source.load(FormatConfig(keep_second_separator=False)).layout.keep_second_separator
    assert tokenizations == [3]


@pytest.mark.parametrize("change", ["content", "tokenizer", "format", "max_tokens"])
def test_what_changes_the_tokens_misses_the_cache(source: Source, tokenizations: list[int], change: str) -> None:
    source.load()
    if change == "content":
        source.write(("1 + 1", "0 3", "2"), ("1 + 2", "0 1 2", "3"), ("4", "", "4"))  # the same size and name
        assert source.load().take([0])[0].cot_ids[1] == WORDS.convert_tokens_to_ids("3")
    elif change == "tokenizer":
        assert source.load(tokenizer=GPT2_STYLE).take([0]) != source.load().take([0])
    elif change == "format":
        assert source.load(FormatConfig(first_separator="=")).layout.first_separator_ids != (WORDS.eos_token_id,)
    else:
        assert len(source.load(max_tokens=8)) == 1
    assert tokenizations == [3, 3]


@pytest.mark.parametrize("name", ["rows.arrow", "meta.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_cache_that_a_power_cut_has_shortened_is_built_anew(
    source: Source, tokenizations: list[int], name: str, share: float
) -> None:
    expected = source.load().take(range(3))
    (path,) = source.cache_dir.glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert source.load().take(range(3)) == expected
    assert tokenizations == [3, 3]


def test_a_cache_that_lacks_rows_is_built_anew(source: Source, tokenizations: list[int]) -> None:
    rows = source.load()
    (path,) = source.cache_dir.glob("*/rows.arrow")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, examples.SCHEMA) as writer:
        writer.write_table(rows.rows[:2])
    assert len(source.load()) == 3


def test_a_source_that_changes_while_it_is_read_is_refused(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    class Changing(RowTokenizer):
        def table(self, rows: RecordColumns) -> pa.Table:
            source.write(("1 + 1", "0 3", "2"), ("1 + 2", "0 1 2", "3"), ("4", "", "4"))
            return super().table(rows)

    with monkeypatch.context() as patched, pytest.raises(UserError, match="rows.jsonl: was changed while it was read"):
        patched.setattr(examples, "RowTokenizer", Changing)
        source.load()
    assert source.load().take([0])[0].cot_ids[1] == WORDS.convert_tokens_to_ids("3")


def test_a_cache_that_may_not_be_written_to_is_named(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(examples, "put_in_place", refuse)
    with pytest.raises(UserError, match=r"data.cache_dir \(.*\): may not be written to"):
        source.load()


def test_a_failed_build_leaves_nothing_in_the_cache(source: Source) -> None:
    source.write(("1 + 1", "0 2", "2"), ("1 plus 1", "0 2", "2"))
    for _ in range(2):  # not half of it the second time
        with pytest.raises(UserError, match="'plus'"):
            source.load()
    assert [path.suffix for path in source.cache_dir.iterdir()] == [".lock"]


def test_rows_too_long_are_dropped_and_counted(source: Source) -> None:
    # question 3 + separator + CoT + separator + answer 3 with end: 10, 11 and, with a question of 1 and no CoT, 6.
    rows = source.load(max_tokens=10)
    assert (len(rows), rows.num_too_long) == (2, 1)
    assert rows.texts("answer", range(2)) == ["2", "4"]
    assert rows.longest_row() == 10
    assert (len(source.load(max_tokens=11)), source.load(max_tokens=11).num_too_long) == (3, 0)
    with pytest.raises(UserError, match=r"all 3 rows are longer than data\.max_tokens \(5\)"):
        source.load(max_tokens=5)


def test_broken_rows_are_listed(source: Source) -> None:
    source.write(("1 + 1", "0 2", "2"), '{"question": "1 + 2"}', ("1 + 3", "0 4", "4"), "not JSON")
    with pytest.raises(UserError, match=r"rows\.jsonl:2: "):
        source.load()
    for _ in range(2):  # built, then from the cache
        rows = source.load(on_bad_row="skip")
        assert len(rows) == 2
        first, second = rows.bad_rows
        assert first.startswith(f"{source.path}:2: ")
        assert second.startswith(f"{source.path}:4: ")


def test_a_source_that_is_not_there_is_named(source: Source) -> None:
    source.path.unlink()
    with pytest.raises(UserError, match=r"rows\.jsonl"):
        source.load()


def test_an_end_of_several_tokens_is_refused(source: Source) -> None:
    with pytest.raises(UserError, match=r"format\.end makes 2 tokens"):
        source.load(FormatConfig(end=". ."))


def test_a_separator_that_is_not_the_same_in_every_row_is_refused(source: Source) -> None:
    # The blank is a part of the token of ` 3`; before a letter that was never seen it is a token of its own.
    source.write(("1", "2", "3"), ("1", "2", "é"))
    row_format = FormatConfig(cot=" {cot}", second_separator=" ", answer="{answer}")
    with pytest.raises(UserError, match=r"question '1': format\.second_separator .* \[\d+\] here and \[\]"):
        source.load(row_format, GPT2_STYLE_TRIMMED)


def test_shared_questions_are_refused(source: Source, tmp_path: Path) -> None:
    train = source.load()
    (tmp_path / "validation").mkdir()
    other = Source(tmp_path / "validation")
    other.write(("1 + 4", "0", "5"), ("1 + 2", "0", "3"), ("1 + 2", "1", "3"), ("4", "0", "4"))
    with pytest.raises(UserError, match=r"data\.validation: 2 of its questions are training questions.*'(1 \+ 2|4)'"):
        assert_disjoint(train, other.load(), "validation")
    other.write(("1 +  2", "0", "5"))
    with pytest.raises(UserError, match=r"'1 \+ 2'"):  # another blank makes no other question
        assert_disjoint(train, other.load(), "validation")
    other.write(("1 + 4", "0", "5"), ("4 1", "0", "3"))
    assert_disjoint(train, other.load(), "validation")
    # Rows of the file that the run does not use do not count.
    other.write(("4", "0", "5"))
    assert_disjoint(train.head(2), other.load(), "validation")
