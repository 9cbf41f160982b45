"""Which attention kernel runs, and does a gap in the position ids leave it whole?

Transformers takes a gap in the position ids, where no mask is passed and no cache kept, for the border of two packed
sequences, and cuts attention there without a word. Kept positions make such gaps. So tiny models are run the way that
training and decoding run real ones, and compared with themselves fed token by token, where there is nothing to cut.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from pipeline.batching import collate
from pipeline.decoding import Prompt, greedy_decode
from pipeline.doctor.finding import Finding
from pipeline.layout import Row, SequenceLayout, assemble_prompt, assemble_row
from pipeline.loss import token_loss_sum
from pipeline.modeling.attention import choose_attention, packs
from pipeline.modeling.packed_attention import PACKED_SDPA
from pipeline.removal import CoTExample

VOCABULARY_SIZE = 16
# Learned and rotary positions. Weights far from zero, so that every token and position matters to the outcome.
TINY = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5},
    "llama": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.5,
    },
}
SHIFT = 9
LAYOUT = SequenceLayout((14,), (15,), end_id=0, pad_id=0)
EXAMPLES = (CoTExample((1, 2, 3, 4, 5), (6, 7), (8, 9, 0), (2,)), CoTExample((5, 3, 1), (2,), (11, 0), (1,)))
NUM_WRITTEN = 8
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}  # relative; a cut changes the loss by 12 % or more


def check_attention(
    wanted: str, dtype: torch.dtype, model_class: type[PreTrainedModel] = LlamaForCausalLM
) -> list[Finding]:
    """Say which kernel a model would compute with, and import flash-attn where it is the one.

    Raises:
        Exception: Whatever flash-attn raises on import, such as for having been built for another PyTorch.
    """
    kernel, why = choose_attention(wanted, dtype, model_class)
    found = f"{kernel} ({why})"
    if kernel == "flash_attention_2":
        if not torch.cuda.is_available() or dtype == torch.float32:
            remedy = "set model.attention auto"
            return [Finding("attention", "fault", f"{found}, but it needs a GPU and engine.precision bf16", remedy)]
        importlib.import_module("flash_attn")
    return [Finding("attention", "ok", found)]


def check_gap(kernel: str, dtype: torch.dtype) -> list[Finding]:
    """Run tiny models over rows with a gap, in training's and in decoding's way.

    On the CPU in fp32 with both kernels that run there; where there is a GPU, there too with the kernel chosen.

    Args:
        kernel: The kernel that a run would compute with.
        dtype: The type it would compute in.
    """
    runs = [(name, "cpu", torch.float32) for name in (PACKED_SDPA, "sdpa", "eager")]
    if torch.cuda.is_available():
        runs.append((kernel, "cuda", dtype))
    cut = []
    for name, device, run_dtype in runs:
        for model_type in TINY:
            model = tiny_model(model_type, name, device, run_dtype)
            where = f"{model_type} with {name} on {device}"
            error = loss_error(model, model)
            if not error <= TOLERANCE[run_dtype]:
                cut.append(f"{where}: loss off by {100 * error:.1f} %")
            if run_dtype == torch.float32 and not decodes_alike(model):
                cut.append(f"{where}: other tokens decoded")
    if cut:
        remedy = "install the pinned transformers; until then removal.keep_positions false"
        return [Finding("position gaps", "fault", "; ".join(cut), remedy)]
    kernels = ", ".join(f"{name} on {device}" for name, device, _ in runs)
    return [Finding("position gaps", "ok", f"attention stays whole ({' and '.join(TINY)}; {kernels})")]


def tiny_model(model_type: str, kernel: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return a two-layer model of width 16 with random weights, without dropout."""
    config = AutoConfig.for_model(
        model_type, **TINY[model_type], vocab_size=VOCABULARY_SIZE, bos_token_id=None, eos_token_id=None
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=kernel)
    return model.to(device).eval()


@torch.no_grad()
def loss_error(model: PreTrainedModel, call: Callable[..., Any]) -> float:
    """Return by how much training's loss differs from the loss of a model fed token by token, relative to the latter.

    Args:
        model: Fed token by token.
        call: What the training loss calls; the model itself, unless a test breaks it.
    """
    rows = [assemble_row(example, LAYOUT, SHIFT) for example in EXAMPLES]
    packed = packs(model.config._attn_implementation, type(model), model.config)
    loss = token_loss_sum(call, collate(rows, LAYOUT), model.device, packed=packed)[0].item()
    by_hand = sum(_loss_by_hand(model, row) for row in rows)
    return abs(loss - by_hand) / by_hand


def _loss_by_hand(model: PreTrainedModel, row: Row) -> float:
    logits = _logits_by_hand(model, row.input_ids.tolist(), row.position_ids.tolist())
    predicted = torch.stack(logits[row.label_start - 1 : -1]).float()  # (num_labels, vocab)
    targets = torch.from_numpy(row.input_ids[row.label_start :]).to(model.device)
    return functional.cross_entropy(predicted, targets, reduction="sum").item()


@torch.no_grad()
def decodes_alike(model: PreTrainedModel) -> bool:
    """Tell whether batched greedy decoding writes what argmax by hand does, for prompts of different length."""
    prompts = [assemble_prompt(example.question_ids, LAYOUT, SHIFT) for example in EXAMPLES]
    # No row writes this many end tokens, so every row writes its full length.
    written = greedy_decode(model, [Prompt(row, NUM_WRITTEN + 1) for row in prompts], LAYOUT, NUM_WRITTEN, 2)
    return written == [_decode_by_hand(model, row) for row in prompts]


def _decode_by_hand(model: PreTrainedModel, prompt: Row) -> list[int]:
    ids, positions = prompt.input_ids.tolist(), prompt.position_ids.tolist()
    for _ in range(NUM_WRITTEN):
        ids.append(int(_logits_by_hand(model, ids, positions)[-1].argmax()))
        positions.append(positions[-1] + 1)
    return ids[len(prompt.input_ids) :]


def _logits_by_hand(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int]) -> list[torch.Tensor]:
    """Return the logits behind each token, fed one at a time over a cache."""
    cache, logits = None, []
    for token, position in zip(ids, positions, strict=True):
        output = model(
            input_ids=torch.tensor([[token]], device=model.device),
            position_ids=torch.tensor([[position]], device=model.device),
            past_key_values=cache,
            use_cache=True,
        )
        cache = output.past_key_values
        logits.append(output.logits[0, -1])
    return logits
