"""Rows without padding: the same losses and gradients as each row by itself, in every architecture that is packed."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pipeline.batching import MicroBatch, collate
from pipeline.errors import UserError
from pipeline.layout import Row, SequenceLayout, assemble_row
from pipeline.loss import summed_cross_entropy, token_loss_sum
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.attention import packs, padding_free
from pipeline.modeling.packed_attention import packed_rows
from pipeline.packing import packed_inputs, padded_inputs, targets
from pipeline.removal import CoTExample

CPU = torch.device("cpu")
LAYOUT = SequenceLayout((1,), (2,), end_id=3, pad_id=0)
WIDE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,  # far from zero, so that every token and position matters
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {**GPT2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "llama": WIDE,
    "mistral": {**WIDE, "sliding_window": 5},  # shorter than the rows
    "phi3": {**WIDE, "sliding_window": 5},
    "qwen2": WIDE,
    "qwen3": {**WIDE, "head_dim": 8},
    "gemma": {**WIDE, "head_dim": 8},
    "gemma3_text": {**WIDE, "head_dim": 8, "sliding_window": 5},
    "olmo2": WIDE,
    "smollm3": WIDE,
    "granite": WIDE,
    "gpt_neox": {**WIDE, "rotary_pct": 0.5},
    "starcoder2": WIDE,
    "mixtral": {**WIDE, "num_local_experts": 2},
}
EXPERTS = {"num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}


def rows(shift: int = 0) -> list[Row]:
    generator = torch.Generator().manual_seed(3)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, 32, (count,), generator=generator).tolist())

    return [assemble_row(CoTExample(ids(1 + i % 3), ids(3 * i), (*ids(1), 3)), LAYOUT, shift) for i in range(5)]


def build(model_type: str, fields: dict[str, Any], kernel: str = "sdpa") -> PreTrainedModel:
    config = AutoConfig.for_model(model_type, **fields)
    model_class = type(AutoModelForCausalLM.from_config(config))
    torch.manual_seed(0)
    attention = padding_free(kernel, model_class, config)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def loss_and_gradients(
    model: PreTrainedModel, micro_batches: list[MicroBatch], packed: bool
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    total = 0.0
    for batch in micro_batches:
        loss, _ = token_loss_sum(model, batch, CPU, packed=packed)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shift", [0, 9], ids=["no gap", "gap"])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_packed_rows_see_themselves_alone(model_type: str, shift: int) -> None:
    model = build(model_type, ARCHITECTURES[model_type])
    assert packs(model.config._attn_implementation, type(model), model.config)
    batch_rows = rows(shift)
    expected, gradients = loss_and_gradients(model, [collate([row], LAYOUT) for row in batch_rows], packed=False)
    found, packed_gradients = loss_and_gradients(model, [collate(batch_rows, LAYOUT)], packed=True)
    assert found == pytest.approx(expected, rel=1e-5)
    assert packed_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_a_row_that_saw_its_neighbours_would_be_found_out() -> None:
    model = build("llama", ARCHITECTURES["llama"])
    batch = collate(rows(), LAYOUT)
    expected, _ = token_loss_sum(model, batch, CPU, packed=True)
    inputs = packed_inputs(batch)
    total = inputs["input_ids"].shape[1]
    one_row = torch.tensor([0, total], dtype=torch.int32)
    inputs |= {"cu_seq_lens_q": one_row, "max_length_q": total, "padded_index": torch.arange(total)}
    logits = model(**inputs).logits[0]
    assert abs(functional.cross_entropy(logits, targets(batch), reduction="sum") - expected) > 0.1


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("lfm2", {**WIDE, "layer_types": ["conv", "full_attention"]}),
        ("mamba", {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}),
        ("bloom", {"vocab_size": 32, "hidden_size": 16, "n_layer": 2, "n_head": 2}),
    ],
    ids=["convolution", "state", "own attention"],
)
def test_what_mixes_tokens_otherwise_keeps_its_padding(model_type: str, fields: dict[str, Any]) -> None:
    config = AutoConfig.for_model(model_type, **fields)
    model_class = type(AutoModelForCausalLM.from_config(config))
    assert padding_free("sdpa", model_class, config) == "sdpa"
    assert not packs("flash_attention_2", model_class, config)


@pytest.mark.parametrize(
    ("model_type", "fields", "fault"),
    [
        ("nemotron", {}, "not told where packed rows begin"),
        ("doge", {}, "a mask of its own"),
        ("phimoe", {**EXPERTS, "sliding_window": 5}, r"sliding_window \(5\)"),
        ("qwen2_moe", {**EXPERTS, "sliding_window": 5, "use_sliding_window": True}, r"sliding_window \(5\)"),
    ],
)
def test_an_architecture_that_would_see_what_it_must_not_is_refused(
    model_type: str, fields: dict[str, Any], fault: str
) -> None:
    model = build(model_type, {**WIDE, **fields})
    batch = collate(rows(), LAYOUT)
    with pytest.raises(UserError, match=rf"model.padding_free \(true\).*{fault}.*set it to false"):
        token_loss_sum(model, batch, CPU, packed=True)
    expected, _ = loss_and_gradients(model, [collate([row], LAYOUT) for row in rows()], packed=False)
    assert token_loss_sum(model, batch, CPU)[0].item() == pytest.approx(expected, rel=1e-5)


def test_a_window_that_no_row_is_longer_than_is_no_fault() -> None:
    model = build("phimoe", {**WIDE, **EXPERTS, "sliding_window": WIDE["max_position_embeddings"]})
    assert token_loss_sum(model, collate(rows(), LAYOUT), CPU, packed=True)[0].isfinite()


def test_flash_attention_is_not_asked_without_the_rows_borders() -> None:
    tensors = torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 8, 4)
    with packed_rows(), pytest.raises(UserError, match="not told where packed rows begin"):
        ALL_ATTENTION_FUNCTIONS["flash_attention_2"](torch.nn.Identity(), *tensors, None)


def test_eager_attention_keeps_its_padding() -> None:
    model = build("llama", WIDE, "eager")
    assert not packs(model.config._attn_implementation, type(model), model.config)


def test_what_the_model_is_called_with() -> None:
    example, short = CoTExample((10,), (11, 12), (13, 3)), CoTExample((20, 21), (), (22, 3))
    batch = collate([assemble_row(example, LAYOUT, 5), assemble_row(short, LAYOUT)], LAYOUT)
    inputs = packed_inputs(batch)
    assert inputs["input_ids"].tolist() == [[10, 1, 11, 12, 2, 13, 3, 20, 21, 1, 2, 22, 3]]
    assert inputs["position_ids"].tolist() == [[0, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]]
    assert inputs["logits_to_keep"].tolist() == [1, 2, 3, 4, 5, 9, 10, 11]
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 7, 13]
    assert (inputs["max_length_q"], inputs["max_length_k"]) == (7, 7)
    assert inputs["padded_index"].tolist() == [*range(13)]
    assert targets(batch).tolist() == [11, 12, 2, 13, 3, 2, 22, 3]
    mask = padded_inputs(batch)["logits_to_keep"]
    assert mask.tolist() == [
        [False, True, True, True, True, True, False],
        [False, False, True, True, True, False, False],
    ]


def test_the_empty_micro_batch_takes_part_with_zero() -> None:
    model = build("gpt2", ARCHITECTURES["gpt2"])
    loss, gradients = loss_and_gradients(model, [collate([], LAYOUT)], packed=True)
    assert loss == 0
    assert len(gradients) == len(list(model.parameters()))
    assert all(gradient.eq(0).all() for gradient in gradients.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy_in_chunks_is_cross_entropy(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(10, 50, generator=generator)).to(dtype)
    labels = torch.randint(0, 50, (10,), generator=generator)
    labels[:4] = logits[:4].argmax(-1)
    plain, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = functional.cross_entropy(plain.float(), labels, reduction="sum")
    (expected * 0.3).backward()
    loss, num_correct = summed_cross_entropy(ours * 1.0, labels, 3 * 50)  # three rows each; the last has one
    (loss * 0.3).backward()
    torch.testing.assert_close(loss, expected)
    assert num_correct == (logits.argmax(-1) == labels).sum() and num_correct >= 4
    torch.testing.assert_close(ours.grad, plain.grad)


def test_the_fused_activation_is_gpt2s() -> None:
    fields = ARCHITECTURES["gpt2"]
    own, fused = build("gpt2", fields), build("gpt2", fields)
    fuse_gelu(fused)
    assert {type(block.mlp.act) for block in fused.transformer.h} == {torch.nn.GELU}
    batch = collate(rows(), LAYOUT)
    expected, gradients = loss_and_gradients(own, [batch], packed=True)
    found, fused_gradients = loss_and_gradients(fused, [batch], packed=True)
    assert found == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(fused_gradients[name], gradient, rtol=1e-4, atol=1e-5)
