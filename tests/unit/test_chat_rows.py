"""Rows of chat messages: what is read of them, what is refused, and what a chat template makes of their questions."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from pipeline.answer_spec import AnswerSpec
from pipeline.chat_template import around_question
from pipeline.config import DataConfig, FormatConfig
from pipeline.config.parsing import parse_command_line
from pipeline.errors import UserError
from pipeline.examples import load_examples
from pipeline.model_card import _prompt
from pipeline.records import BadRow, CoTRecord, read_records, write_records
from pipeline.records.chat import conversation_of, shown, to_question
from pipeline.records.columns import RecordColumns
from pipeline.row_text import PARTS, render_question, resolve_format, tokenize_rows
from pipeline.token_table import RowTokenizer
from pipeline.word_rows import WordTokenizer
from tests.chat_style import CHATML, INSTRUCT, OPENS_THINK, build_chat_style
from tests.gpt2_style import build_gpt2_style
from tests.tiny import ROOT

USER = {"role": "user", "content": "how many apples"}
SYSTEM = {"role": "system", "content": "Count."}
EARLIER = [{"role": "user", "content": "1 + 2"}, {"role": "assistant", "content": "3"}]
REASONING = "There are 3.\n\n  3 * 4 = 12\nSo 12."
LAST = {"role": "assistant", "content": f"<think>\n{REASONING}\n</think>\n\n12"}
STEPS = ("There are 3.\n\n", "  3 * 4 = 12\n", "So 12.")


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


# Reading


@pytest.mark.parametrize(
    "last",
    [
        LAST,
        {"role": "assistant", "content": f"  <think>{REASONING}</think>12 "},
        {"role": "assistant", "content": "12", "reasoning_content": f"\n{REASONING}\n"},
        {"role": "assistant", "content": "12", "thinking": REASONING, "reasoning_content": None},
        {"role": "assistant", "content": "12", "reasoning": REASONING, "tool_calls": []},
    ],
    ids=["tags", "tight tags", "reasoning_content", "thinking", "reasoning"],
)
def test_reasoning_is_read_from_tags_or_a_key(tmp_path: Path, last: dict[str, Any]) -> None:
    (record,) = read_records(write(tmp_path, {"messages": [USER, last], "source": "x"}))
    assert record == CoTRecord("how many apples", STEPS, "12")
    assert record.cot == REASONING


@pytest.mark.parametrize("last", [{"content": "<think>\n\n</think>\n\n12"}, {"content": "12", "thinking": ""}])
def test_a_row_may_say_that_it_has_no_reasoning(tmp_path: Path, last: dict[str, Any]) -> None:
    (record,) = read_records(write(tmp_path, {"messages": [USER, {"role": "assistant", **last}]}))
    assert record == CoTRecord("how many apples", (), "12")


def test_what_stands_before_the_last_message_is_the_question(tmp_path: Path) -> None:
    spaced = {"role": "user", "content": " 5 + 6\n", "name": "Ann"}
    (record,) = read_records(write(tmp_path, {"messages": [SYSTEM, *EARLIER, spaced, LAST]}))
    assert conversation_of(record.question) == [SYSTEM, *EARLIER, {"role": "user", "content": "5 + 6"}]
    assert "Count." in record.question and shown(record.question) == "'5 + 6' (of 4 messages)"


def test_a_question_that_looks_like_a_conversation_stays_what_it_is() -> None:
    text = to_question([SYSTEM, USER])
    assert conversation_of(to_question([{"role": "user", "content": text}])) == [{"role": "user", "content": text}]
    for other in ('[{"role": "user"}]', '[{"role": "user", "content": 1}]', '[{"role":', "[{}]", "how", shown(text)):
        assert conversation_of(other) is None
    assert to_question([USER]) == USER["content"]
    assert conversation_of('[{"role":"user","content":"typed"}]') == [{"role": "user", "content": "typed"}]


def test_chat_rows_are_read_from_arrays_and_parquet_and_written_so_that_they_read_back(tmp_path: Path) -> None:
    rows = [{"messages": [USER, LAST]}, {"messages": [SYSTEM, USER, LAST]}]
    expected = list(read_records(write(tmp_path, *rows)))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.json", "rows.parquet"):
        assert list(read_records(str(tmp_path / name))) == expected
    write_records(tmp_path / "again.jsonl", expected)
    assert list(read_records(str(tmp_path / "again.jsonl"))) == expected
    with pytest.raises(UserError, match=r"chain of thought .* holds '\\n'.*\.jsonl"):
        write_records(tmp_path / "again.txt", expected)


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def answered(content: Any, **keys: Any) -> dict[str, Any]:
    return chat(USER, {"role": "assistant", "content": content, **keys})


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"messages": "q"}, "`messages` is a string"),
    "none": (chat(), "`messages` is empty"),
    "last of the user": (chat(USER), "the last of `messages` is the user's"),
    "no question": (chat(LAST), "no message of the user before"),
    "no user": (chat(SYSTEM, LAST), "no message of the user before"),
    "no reasoning": (answered("12"), "no reasoning in the last"),
    "unclosed": (answered("<think>3 * 4 12"), "`<think>` without `</think>`"),
    "unopened": (answered("3 * 4</think>12"), "`</think>` without `<think>`"),
    "two blocks": (answered("<think>3</think><think>4</think>12"), "a second `<think>`"),
    "answer first": (answered("12 <think>3 * 4</think>"), "`<think>` does not begin"),
    "crossed": (answered("</think>3<think>12"), "`<think>` does not begin"),
    "tags and key": (answered("<think>3</think>12", thinking="3"), "and `thinking` beside it"),
    "two keys": (answered("12", thinking="3", reasoning="3"), "`thinking` and `reasoning`"),
    "key of a list": (answered("12", thinking=["3"]), "`thinking` in the last of `messages` is a list"),
    "no answer": (answered("<think>3 * 4</think>"), "empty answer"),
    "images": (answered([{"type": "image"}]), "message 2 of `messages` has a list as `content`"),
    "null": (answered(None, thinking="3"), "message 2 of `messages` has no `content`"),
    "tools": (answered("12", thinking="3", tool_calls=[{"id": 1}]), "message 2 of `messages` has `tool_calls`"),
    "role": (chat({"role": "human", "content": "q"}, LAST), "the role 'human'"),
    "role of a list": (chat({"role": ["x" * 99], "content": "q"}, LAST), "it must be one of system, user, assistant"),
    "no role": (chat({"from": "human", "value": "q"}, LAST), "message 1 of `messages` has no `role`"),
    "no object": (chat("q", LAST), "message 1 of `messages` is a string"),
    "blank": (chat({"role": "user", "content": " "}, LAST), "message 1 of `messages` is empty"),
    "question beside": (chat(USER, LAST, question="q"), "both `messages` and `question`"),
    "answer beside": (chat(USER, LAST, answer="12"), "both `messages` and `answer`"),
    "half surrogate": (answered("<think>\ud800</think>12"), "surrogate"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_chat_row_is_told_with_file_line_and_remedy(tmp_path: Path, name: str) -> None:
    row, what = BROKEN[name]
    path = write(tmp_path, chat(USER, LAST), row)
    with pytest.raises(UserError) as caught:
        list(read_records(path))
    assert str(caught.value).startswith(f"{path}:2: ") and what in str(caught.value)
    assert "; " in str(caught.value), "a remedy is missing"
    assert len(str(caught.value)) < len(path) + 300
    bad_rows: list[BadRow] = []
    assert len(list(read_records(path, on_bad_row="skip", bad_rows=bad_rows))) == len(bad_rows) == 1


# Writing questions with a chat template


def preset(*overrides: str) -> FormatConfig:
    files = [f"--config={ROOT / 'recipes' / name}" for name in ("your_data.yaml", "presets/chat.yaml")]
    return parse_command_line([*files, *overrides], "tacit train")[0].format


FORMAT = preset()
TOKENIZER = build_chat_style()
RECORD = CoTRecord("how many apples", STEPS, "12")
CONVERSATION = CoTRecord(to_question([SYSTEM, *EARLIER, USER]), STEPS, "12")


def texts_of(
    record: CoTRecord, tokenizer: PreTrainedTokenizerFast, row_format: FormatConfig = FORMAT
) -> dict[str, str]:
    (row,) = tokenize_rows([record], resolve_format(row_format, tokenizer), tokenizer)
    ids = [token for part in PARTS for token in row[part]]
    messages = conversation_of(record.question) or [{"role": "user", "content": record.question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert row["question"] == prompt  # what a plain chat pipeline would ask
    assert tokenizer.decode(ids) == "".join(tokenizer.decode(row[part]) for part in PARTS)
    return {part: tokenizer.decode(row[part]) for part in PARTS}


@pytest.mark.parametrize("template", [CHATML, INSTRUCT], ids=["chatml", "instruct"])
@pytest.mark.parametrize("record", [RECORD, CoTRecord("1 + 2", (), "3")], ids=["cot", "no cot"])
def test_the_preset_writes_the_prompt_of_a_chat_and_then_reasoning_and_answer(template: str, record: CoTRecord) -> None:
    parts = texts_of(record, build_chat_style(template))
    assert parts["first_separator"] == "" and parts["end"] == "<|im_end|>"
    assert parts["cot"] == (f" <think>\n{record.cot}\n" if record.steps else "")
    assert parts["second_separator"] == "</think>\n\n" and parts["answer"] == record.answer
    # Whether the tokenizer puts its beginning token before a text or not: the template alone decides.
    assert parts["question"].count("<|im_start|>") == (3 if template == CHATML else 1)


def test_a_conversation_is_written_by_the_chat_template() -> None:
    parts = texts_of(CONVERSATION, TOKENIZER)
    assert parts["question"].startswith("<|im_start|>system\nCount.<|im_end|>\n<|im_start|>user\n1 + 2<|im_end|>\n")
    assert parts["question"].endswith("how many apples<|im_end|>\n<|im_start|>assistant\n")
    assert parts["cot"] == f" <think>\n{REASONING}\n"


def test_each_line_is_a_step_with_its_line_break() -> None:
    (row,) = tokenize_rows([RECORD], resolve_format(FORMAT, TOKENIZER), TOKENIZER)
    steps, begin = [], 0
    for length in row["cot_step_lengths"]:
        steps.append(TOKENIZER.decode(row["cot"][begin : begin + length]))
        begin += length
    assert [step.strip() for step in steps] == ["<think>\nThere are 3.", "3 * 4 = 12", "So 12."]
    assert "".join(steps) == f" <think>\n{REASONING}\n"


def test_conversations_need_a_chat_template() -> None:
    plain = FormatConfig(question="{question}\n", first_separator="", cot="{cot}\n", answer="{answer}")
    with pytest.raises(UserError, match=r"question 'how many apples' \(of 4 messages\).*format\.question to \{chat\}"):
        texts_of(CONVERSATION, TOKENIZER, plain)
    with pytest.raises(UserError, match=r"format\.question \(\{chat\}\).*has no chat template.*\{question\}"):
        resolve_format(FORMAT, build_gpt2_style())


def test_a_template_that_refuses_a_role_is_told_with_the_row() -> None:
    with pytest.raises(UserError) as caught:
        texts_of(CoTRecord(to_question([SYSTEM, USER]), STEPS, "12"), build_chat_style(INSTRUCT))
    assert "question 'how many apples'" in str(caught.value) and "(system, user)" in str(caught.value)
    assert "Only user and assistant roles are supported!" in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        CHATML.replace("message.content }}", "message.content | upper }}"),
        CHATML.replace("message.content }}", "message.content[:8] }}"),
        CHATML.replace("message.content }}", "message.content }}{{ message.content }}"),
        CHATML.replace("message.content }}", "message.content | length }}"),
        CHATML.replace("message.content }}", "message.content }} {{ message.content | length }}"),
    ],
    ids=["upper", "cut", "twice", "not at all", "by the question"],
)
def test_a_template_that_changes_the_question_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="does not write a question as it is, once"):
        around_question(build_chat_style(template))


def test_a_template_that_begins_the_reasoning_needs_a_format_that_ends_it() -> None:
    tokenizer = build_chat_style(OPENS_THINK)
    for wrong in (FORMAT, FormatConfig(question="{chat}", cot="{cot}\n", keep_second_separator=False)):
        with pytest.raises(UserError, match=r"format\.cot .*ends the prompt with <think>.*keep_second_separator true"):
            resolve_format(wrong, tokenizer)
    right = FormatConfig("{chat}", "", "{cot}\n", "</think>\n\n", "{answer}", "{eos}", keep_second_separator=True)
    parts = texts_of(RECORD, tokenizer, right)
    assert parts["question"].endswith("assistant\n<think>\n") and parts["cot"] == f"{REASONING}\n"


def test_a_template_that_writes_the_date_writes_the_same_on_every_day() -> None:
    tokenizer = build_chat_style("{{ strftime_now('%d %b %Y, %-d. %B') }}\n" + CHATML)
    templates = resolve_format(FORMAT, tokenizer)
    assert templates["chat"] != tokenizer.chat_template  # or rows kept with another day's date would be taken for these
    for record in (RECORD, CONVERSATION):
        prompt = render_question(record.question, templates, tokenizer)
        assert prompt.startswith("26 Jul 2024, 26. July\n<|im_start|>system")


def test_another_chat_template_misses_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path, chat(USER, LAST), chat(SYSTEM, USER, LAST))
    other = CHATML.replace(
        "messages %}{% if loop.first and", "messages %}{% if loop.first and messages | length < 2 and"
    )
    for number, template in enumerate((CHATML, other, CHATML.replace("role }}\n", "role }}:\n")), start=1):
        tokenizer = build_chat_style(template)
        config = DataConfig(cache_dir=str(tmp_path / "cache"))
        examples = load_examples(path, "train", config, FORMAT, tokenizer)
        assert sum(folder.is_dir() for folder in (tmp_path / "cache").iterdir()) == number
        prompts = [tokenizer.decode(example.question_ids) for example in examples.take([0, 1])]
        assert prompts[1].startswith("<|im_start|>system") and "Count." in prompts[1]
        assert examples.texts("question", [0]) == ["how many apples"]


@pytest.mark.parametrize("question", ["{bos}{chat}", "{chat} ", "{chat}{chat}", "{question}{chat}"])
def test_the_chat_template_writes_the_whole_question(question: str) -> None:
    with pytest.raises(UserError) as caught:
        preset(f"--format.question={question}")
    (fault,) = str(caught.value).splitlines()
    assert fault.startswith(f"format.question ({question!r}) must be {{chat}} alone: ")


# By words


SPACED = FormatConfig("{chat}", "", " {cot} ", "{eos}", " {answer} ", "{eos}")
SPACED_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }} {{ eos_token }}{% endfor %}"


def test_rows_and_conversations_come_out_by_words_as_they_do_as_whole_texts() -> None:
    tokenizer = build_chat_style(SPACED_TEMPLATE)
    templates = resolve_format(SPACED, tokenizer)
    plain = CoTRecord("how many", ("1 + 2",), "3")
    rows = RecordColumns.of([plain, CONVERSATION, plain, RECORD])
    found = [number for numbers, _, _ in WordTokenizer(templates, tokenizer).tokenize(rows) for number in numbers]
    assert sorted(found) == [0, 2]
    table = RowTokenizer(templates, tokenizer).table(rows).to_pydict()
    by_rows = tokenize_rows(rows.records(), templates, tokenizer)
    assert table["question_ids"] == [row["question"] for row in by_rows]
    assert table["cot_ids"] == [row["cot"] for row in by_rows]
    assert table["cot_step_lengths"] == [row["cot_step_lengths"] for row in by_rows]


# What is told of a model


def test_the_model_card_says_how_a_chat_model_is_asked() -> None:
    spec = AnswerSpec(FORMAT, 5, True, "left", "token", False, 5)
    assert "chat template" in _prompt(spec) and "pipeline(" in _prompt(spec)
