"""Tokenizers with chat templates of the kinds there are, small enough to be trained in a test."""

from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.gpt2_style import build_gpt2_style

# Writes a system message of its own where there is none, as SmolLM2's and Qwen2.5's do.
CHATML = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Writes the beginning token itself, and knows no system, as Mistral's first does.
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
# Begins the reasoning itself, as DeepSeek-R1's does.
OPENS_THINK = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")


def build_chat_style(template: str = CHATML) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE whose turns end in its end token; it puts its beginning token before a text by itself."""
    trained = build_gpt2_style()
    backend = trained.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    begin = (str(tokenizer.bos_token), tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin]),
        ]
    )
    tokenizer.chat_template = template
    return tokenizer
