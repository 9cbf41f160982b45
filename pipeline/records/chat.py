"""Conversations: chat messages as the parts of a record, and a question of several messages as one text.

A question that is more than one message stands in a record as the JSON list of its messages, so that whatever holds
questions (files, caches, samples, the command line) holds conversations too. `pipeline.chat_template` makes of it what
a model reads.
"""

import json
import re
from typing import Any

from pipeline.errors import shortened
from pipeline.records.row_error import RowError, type_name

ROLES = ("system", "user", "assistant")
# Where the last message keeps its reasoning beside its content: DeepSeek's and Qwen's name, gpt-oss', OpenRouter's.
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
BEGIN, END = "<think>", "</think>"
BEGINS_CONVERSATION = '[{"role":'
Message = dict[str, str]


def read_messages(messages: object, key: str) -> tuple[str, str, str]:
    """Return question, chain of thought and answer of a conversation.

    Args:
        messages: A list of objects with ``role`` and ``content``; the last is the assistant's, with its reasoning in
            ``<think>..</think>`` before the answer, or in a key of its own (``REASONING_KEYS``).
        key: Name of the list in its row, for messages.

    Returns:
        The question (``to_question``), the reasoning, and what stands behind it.

    Raises:
        RowError: If a message is not of this form, there is no question, or no reasoning.
    """
    if not isinstance(messages, list):
        raise RowError(f"`{key}` is {type_name(messages)}; write a list of messages")
    if not messages:
        raise RowError(f"`{key}` is empty; write the question's message and the assistant's")
    *asked, last = [_message(message, number, key) for number, message in enumerate(messages, start=1)]
    if last["role"] != "assistant":
        raise RowError(
            f"the last of `{key}` is the {last['role']}'s; end with the assistant's, which has the reasoning and answer"
        )
    if not asked or asked[-1]["role"] != "user":
        raise RowError(f"no message of the user before the last of `{key}`; the question is the user's, so add it")
    return to_question(asked), *_reasoning_and_answer(last["content"], messages[-1], key)


def to_question(messages: list[Message]) -> str:
    """Return a question of messages as one text: the one user's own, or all of them as JSON."""
    if len(messages) == 1 and conversation_of(messages[0]["content"]) is None:
        return messages[0]["content"]
    return json.dumps(messages, ensure_ascii=False)


def conversation_of(question: str) -> list[Message] | None:
    """Return the messages that a question consists of; None if it is a plain text."""
    if not question.startswith(BEGINS_CONVERSATION):
        return None
    try:
        messages = json.loads(question)
        return [_message(message, number, "messages") for number, message in enumerate(messages, start=1)]
    except (ValueError, RecursionError):  # a RowError is a ValueError
        return None


def shown(question: str) -> str:
    """Return a question for an error message: in quotes, of a conversation its last message alone."""
    messages = conversation_of(question)
    return f"{messages[-1]['content']!r} (of {len(messages)} messages)" if messages else repr(question)


def _message(message: object, number: int, key: str) -> Message:
    """Return a message's role and content, blanks around it dropped.

    Raises:
        RowError: If it has none, or more than text.
    """
    where = f"message {number} of `{key}`"
    if not isinstance(message, dict):
        raise RowError(f'{where} is {type_name(message)}; write {{"role": ..., "content": ...}}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        found = "no `role`" if role is None else f"the role {shortened(repr(role), 40)}"
        raise RowError(f"{where} has {found}; it must be one of {', '.join(ROLES)}")
    if message.get("tool_calls"):
        raise RowError(f"{where} has `tool_calls`; only messages of text can be read, so leave the row out")
    if not isinstance(content, str):
        found = "no `content`" if content is None else f"{type_name(content)} as `content`"
        raise RowError(f"{where} has {found}; write it as one string, for only text can be read")
    if not content.strip() and role != "assistant":
        raise RowError(f"{where} is empty; fill it in or delete it")
    return {"role": role, "content": content.strip()}


def _reasoning_and_answer(content: str, message: dict[str, Any], key: str) -> tuple[str, str]:
    found = [name for name in REASONING_KEYS if message.get(name) is not None]
    if len(found) > 1:
        raise RowError(f"`{found[0]}` and `{found[1]}` in the last of `{key}`; keep one of them")
    num_begins, num_ends = content.count(BEGIN), content.count(END)
    if found and (num_begins or num_ends):
        raise RowError(f"`{BEGIN}` or `{END}` in the last of `{key}`, and `{found[0]}` beside it; keep one of them")
    if found:
        reasoning = message[found[0]]
        if not isinstance(reasoning, str):
            raise RowError(f"`{found[0]}` in the last of `{key}` is {type_name(reasoning)}; write it as a string")
        return reasoning.strip(), content
    if num_begins > 1 or num_ends > 1:
        raise RowError(f"a second `{BEGIN}` or `{END}` in the last of `{key}`; keep one block of reasoning")
    if num_begins != num_ends:
        open_tag, missing = (BEGIN, END) if num_begins else (END, BEGIN)
        raise RowError(f"`{open_tag}` without `{missing}` in the last of `{key}`; add it")
    if not num_begins:
        raise RowError(
            f"no reasoning in the last of `{key}`; write it as {BEGIN}..{END} before the answer or as "
            f"`{REASONING_KEYS[0]}`, empty for a row without"
        )
    block = re.fullmatch(f"{BEGIN}(.*){END}(.*)", content, re.DOTALL)
    if block is None:
        raise RowError(f"`{BEGIN}` does not begin the last of `{key}`; put the reasoning before the answer")
    return block[1].strip(), block[2].strip()
