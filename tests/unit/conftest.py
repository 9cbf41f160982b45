"""Models small enough that a test can check every number of theirs."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

VOCABULARY_SIZE = 13


def _tiny_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY_SIZE,
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=64,
            initializer_range=0.5,  # far from zero, so that every token and position matters to the argmax
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _tiny_llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.5,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


@pytest.fixture(params=[_tiny_gpt2, _tiny_llama], ids=["gpt2", "llama"])
def tiny_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A two-layer model of width 16 with random weights, without dropout; learned and rotary positions in turn."""
    torch.manual_seed(0)
    return request.param().eval()
