"""What a tokenizer's chat template makes of a conversation: all that stands before the assistant's answer.

Templates are Jinja, which Transformers renders in a sandbox.
"""

from collections.abc import Sequence
from datetime import datetime

from transformers import PreTrainedTokenizerBase

from pipeline.errors import UserError, in_one_line

# Two questions of different kinds; what a template writes around both must be the same.
SENTINELS = ("Fz3 Qk7?", "7Wd, and a longer one:\n\n- in *two* lines -")
# What templates are told that ask for today's date: a run resumed tomorrow, and its model asked next year, must read
# the same prompts. It is the date that Llama 3.2's own template falls back to.
TODAY = datetime(2024, 7, 26)
DATE_CODES = ("a", "A", "b", "B", "d", "-d", "m", "-m", "y", "Y", "j", "H", "I", "M", "S", "p", "F", "x", "X", "c")
FILLED_IN = "".join(f" | replace('%{code}', '{TODAY.strftime(f'%{code}')}')" for code in DATE_CODES)
STRFTIME_NOW = f"{{% macro strftime_now(form) %}}{{{{ form{FILLED_IN} }}}}{{% endmacro %}}"
NO_TEMPLATE = (
    "format.question ({{chat}}): the tokenizer ({name}) has no chat template; take that of a model for chats "
    "(model.tokenizer), or write the turns out in format.question, around {{question}}."
)


def around_question(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """Return what the chat template writes before and behind a question of one message, its special tokens included.

    Raises:
        UserError: If there is no template, or it changes a question.
    """
    frames = [render([{"role": "user", "content": text}], tokenizer).split(text) for text in SENTINELS]
    if frames[0] != frames[1] or len(frames[0]) != 2:
        raise UserError(
            f"format.question ({{chat}}): the chat template of the tokenizer ({tokenizer.name_or_path}) does not write "
            "a question as it is, once; write the turns out in format.question, around {question}."
        )
    before, behind = frames[0]
    return before, behind


def render(messages: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    """Return messages as the model reads them, up to where the assistant begins to write.

    Args:
        messages: With ``role`` and ``content``.
        tokenizer: With a chat template.

    Raises:
        UserError: If there is no template, or it refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise UserError(NO_TEMPLATE.format(name=tokenizer.name_or_path))
    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), chat_template=template_of(tokenizer), tokenize=False, add_generation_prompt=True
            )
        )
    except Exception as error:  # what templates raise has no class of its own
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"question {messages[-1]['content']!r}: the chat template of the tokenizer ({tokenizer.name_or_path}) "
            f"refuses its messages ({roles}): {in_one_line(error)}; write them otherwise, such as the "
            "system's words into the user's."
        ) from error


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template's source, its date fixed: what conversations are tokenised by, besides the tokenizer."""
    template = str(tokenizer.get_chat_template())
    return STRFTIME_NOW + template if "strftime_now" in template else template
