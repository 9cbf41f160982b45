"""The models that speed is measured with, of random weights: fields of their Transformers configurations."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHAPES: dict[str, dict[str, Any]] = {
    "GPT-2 Small": {"model_type": "gpt2", "vocab_size": 50257, **NO_DROPOUT},
    "Mistral 60M": {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 512,
        "intermediate_size": 1792,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    },
    "demo": {
        "model_type": "gpt2",
        "vocab_size": 32,
        "n_layer": 2,
        "n_embd": 128,
        "n_head": 4,
        **NO_DROPOUT,
    },
}


def random_model(fields: dict[str, Any], attention: str = "sdpa", seed: int = 0) -> PreTrainedModel:
    """Return a model in fp32 with weights of a fixed seed."""
    fields = dict(fields)
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, **special)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)
