"""What a step holds in memory: traces of fake tensors against real ones, and the arithmetic over them by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from pipeline.batching import collate
from pipeline.config import LoraConfig, ModelConfig
from pipeline.flops import training_flops
from pipeline.layout import SequenceLayout, assemble_row
from pipeline.loss import token_loss_sum
from pipeline.modeling.activation import fuse_gelu
from pipeline.modeling.fake_model import FakeModel, build_fake_model, with_layers
from pipeline.modeling.lora import add_adapters
from pipeline.modeling.packed_attention import PACKED_SDPA
from pipeline.plan.live_bytes import LiveBytes
from pipeline.plan.memory import Memory, Placement, host_bytes, memory_by_phase
from pipeline.plan.peaks import MicroBatchTrace, Peak, between
from pipeline.plan.trace import trace_decoding, trace_micro_batch
from pipeline.plan.zero import ZeroSettings
from pipeline.removal import CoTExample

CPU = torch.device("cpu")
NUM_ROWS, PROMPT, LABELS = 6, 10, 14
LENGTH = PROMPT + LABELS
VOCABULARY = 97


def llama(**changes: object) -> PretrainedConfig:
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 80,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    return AutoConfig.for_model("llama", **{**fields, **changes})


def gpt2(**changes: object) -> PretrainedConfig:
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return AutoConfig.for_model("gpt2", **{**sizes, **dropout, **changes})


def fake(config: PretrainedConfig, lora: LoraConfig | None = None, **settings: object) -> FakeModel:
    return build_fake_model(config, ModelConfig(**settings), lora or LoraConfig(), torch.float32)  # type: ignore[arg-type]


# Live bytes


def test_live_bytes_counts_storages_once_and_until_they_go() -> None:
    old = torch.zeros(1000)
    seen = []
    live = LiveBytes(lambda tensor: str(tensor.dtype), [old], lambda now: seen.append(sum(now.values())))
    with live:
        floats = torch.zeros(100)
        view = floats.view(10, 10)[2:]
        old.add_(1)
        integers = torch.arange(10)
        assert live.live["torch.float32"] == 400
        assert live.live["torch.int64"] == 80
        del floats
        assert live.live["torch.float32"] == 400  # the view holds it
        del view, integers
        assert sum(live.live.values()) == 0
        kept = torch.zeros(7)
        assert live.release(kept) == 28
        assert sum(live.live.values()) == 0
        kept += 1
        assert sum(live.live.values()) == 0
    assert max(seen) == 480


# Traces


def real_peaks(config: PretrainedConfig, kernel: str, checkpointing: bool) -> tuple[int, int]:
    """Count live tensors in a real micro-batch: the worst moment, gradients apart, and of logits alone."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    fuse_gelu(model)
    if checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    layout = SequenceLayout((1,), (), 1, 0)
    example = CoTExample((2,) * (PROMPT - 1), (3,) * (LABELS - 1), (1,))
    # Were no row shorter, nothing would be padded, and the padded way would leave its mask out.
    shorter = replace(example, question_ids=(2,) * (PROMPT - 2))
    rows = [assemble_row(part, layout) for part in [example] * (NUM_ROWS - 1) + [shorter]]
    micro_batch = collate(rows, layout)
    size = NUM_ROWS * LABELS * VOCABULARY
    peak = logits = 0

    def record(now: dict[str, int]) -> None:
        nonlocal peak, logits
        peak, logits = max(peak, sum(now.values())), max(logits, now.get("logits", 0))

    live = LiveBytes(
        lambda t: "logits" if t.numel() == size else "rest", [*model.parameters(), *model.buffers()], record
    )

    def free(weight: torch.Tensor) -> None:
        live.release(weight.grad)  # type: ignore[arg-type]
        weight.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(free)
    with live:
        token_loss_sum(model, micro_batch, CPU, packed=kernel == PACKED_SDPA)[0].backward()
    return peak, logits


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("kernel", [PACKED_SDPA, "sdpa"])
@pytest.mark.parametrize("config", [llama(), gpt2()], ids=["llama", "gpt2"])
def test_fake_tensors_weigh_what_real_ones_do(config: PretrainedConfig, kernel: str, checkpointing: bool) -> None:
    """Through the loss that training uses; only its index tensors differ."""
    model = fake(config, gradient_checkpointing=checkpointing, padding_free=kernel == PACKED_SDPA)
    trace = trace_micro_batch(model, NUM_ROWS, LENGTH, LABELS)
    predicted = max(trace.before_gradients.total, trace.after_first_gradient.total)
    measured, logits = real_peaks(config, kernel, checkpointing)
    assert predicted == pytest.approx(measured, rel=0.03)
    assert logits == 2 * 4 * NUM_ROWS * LABELS * VOCABULARY  # they, and the chunk that their gradient is made from


def test_logits_of_a_head_that_dominates() -> None:
    model = fake(llama(vocab_size=20_000, num_hidden_layers=1))
    peak = trace_micro_batch(model, NUM_ROWS, LENGTH, LABELS).before_gradients
    assert peak.logits == 2 * 4 * NUM_ROWS * LABELS * 20_000
    assert peak.logits > 10 * peak.activations


def test_checkpointing_and_the_fused_kernel_save_memory() -> None:
    length = 64
    plain, checkpointed, eager = (
        trace_micro_batch(fake(llama(), **settings), NUM_ROWS, length, LABELS).before_gradients.activations
        for settings in ({}, {"gradient_checkpointing": True}, {"attention": "eager"})
    )
    assert checkpointed < 0.5 * plain
    probabilities = 6 * 4 * NUM_ROWS * length * length * 4  # for each layer and head, in fp32
    assert eager - plain > 0.7 * probabilities


def test_attention_dropout_keeps_the_fused_kernel() -> None:
    config = gpt2()
    config.attn_pdrop = 0.1
    without = trace_micro_batch(fake(gpt2()), NUM_ROWS, LENGTH, LABELS)
    assert trace_micro_batch(fake(config), NUM_ROWS, LENGTH, LABELS) == without


def test_rows_in_between_are_not_underestimated() -> None:
    model = fake(gpt2())
    few, middle, many = (trace_micro_batch(model, number, LENGTH, LABELS) for number in (1, 5, 9))
    estimate = between(few, many, 0.5)
    for part in ("before_gradients", "after_first_gradient", "gathering_gradients"):
        assert getattr(estimate, part).total >= getattr(middle, part).total * 0.999
        assert getattr(estimate, part).total == pytest.approx(getattr(middle, part).total, rel=0.1)


def test_gathering_counts_the_gradients_that_are_there() -> None:
    model = fake(llama())
    trace = trace_micro_batch(model, 1, 2, 1)
    assert trace.gathering_gradients.gradients > 0.9 * 4 * model.size.num_trained  # at the end, for so small a batch
    assert trace.before_gradients.gradients == trace.after_first_gradient.gradients == 0


@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("num_rows", [1, 30], ids=["gradients dominate", "activations dominate"])
@pytest.mark.parametrize("config", [llama(num_hidden_layers=9), gpt2(n_layer=9)], ids=["llama", "gpt2"])
def test_layers_that_are_alike_need_not_all_be_traced(
    config: PretrainedConfig, num_rows: int, settings: dict[str, bool]
) -> None:
    few, more, whole = (
        trace_micro_batch(fake(with_layers(config, number), **settings), num_rows, LENGTH, LABELS)
        for number in (2, 3, 9)
    )
    estimate = between(few, more, 7)
    for part in ("before_gradients", "after_first_gradient", "gathering_gradients"):
        assert getattr(estimate, part).total == getattr(whole, part).total
    few_decoding, more_decoding, whole_decoding = (
        trace_decoding(fake(with_layers(config, number)), num_rows, PROMPT) for number in (2, 3, 9)
    )
    for name in ("peak", "cache"):
        steps = getattr(more_decoding, name) - getattr(few_decoding, name)
        assert getattr(few_decoding, name) + 7 * steps == getattr(whole_decoding, name)


def test_checkpointing_with_attention_dropout_can_be_traced() -> None:
    config = gpt2()
    config.attn_pdrop = 0.1
    model = build_fake_model(config, ModelConfig(gradient_checkpointing=True), LoraConfig(), torch.bfloat16)
    assert trace_micro_batch(model, NUM_ROWS, LENGTH, LABELS).before_gradients.total > 0


def test_decoding_keeps_keys_and_values() -> None:
    trace = trace_decoding(fake(llama()), NUM_ROWS, PROMPT)
    cache = 2 * 6 * NUM_ROWS * PROMPT * 2 * 8 * 4  # keys and values, layers, rows, tokens, heads, width, fp32
    assert cache <= trace.cache <= 1.2 * cache
    assert trace.peak > trace.cache


# Sizes


def test_size_of_a_model() -> None:
    size = fake(llama()).size
    head = VOCABULARY * 32
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 80
    assert size.matrix_trained == 6 * layer
    assert (size.head_weights, size.head_trained, size.matrix_frozen) == (head, True, 0)
    assert size.num_weights == size.num_trained == 2 * head + 6 * (layer + 2 * 32) + 32
    assert size.weight_bytes == 4 * size.num_weights
    assert sum(size.parameter_sizes) == size.num_weights


def test_tied_weights_count_once() -> None:
    size = fake(gpt2()).size
    assert size.num_weights == sum(
        parameter.numel() for parameter in AutoModelForCausalLM.from_config(gpt2()).parameters()
    )
    assert size.matrix_trained == 3 * 12 * 32 * 32  # neither of the embeddings, nor the head, which is one of them


def test_size_with_adapters_on_a_quantised_base() -> None:
    plain, adapters = fake(llama()).size, fake(llama(), LoraConfig(rank=2)).size
    per_layer = 2 * (4 * (32 + 32) + 3 * (32 + 80)) - 2 * 2 * 16  # keys and values are half as wide
    assert adapters.num_trained == adapters.matrix_trained == 6 * per_layer
    assert (adapters.matrix_frozen, adapters.head_trained) == (plain.matrix_trained, False)
    nf4 = fake(llama(), LoraConfig(rank=2), quantization="nf4").size
    assert nf4.num_weights == adapters.num_weights
    saved = adapters.weight_bytes - nf4.weight_bytes
    assert saved == pytest.approx((4 - 0.516) * plain.matrix_trained, rel=1e-3)
    assert nf4.largest_dequantized == 32 * 80


# Arithmetic of training


def counted_flops(config: PretrainedConfig, lora: LoraConfig | None, checkpointing: bool) -> int:
    """Let PyTorch count a real micro-batch. Its counter knows no fused attention, so that is done in steps here.

    The pass that checkpointing repeats goes to its end: where PyTorch stops it early is not always the same place.
    """
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if lora:
        add_adapters(model, lora, seed=0)
    if checkpointing:
        model.activation_checkpointing_enable()
    model.train()
    ids = torch.zeros(NUM_ROWS, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, set_checkpoint_early_stop(False):
        model(input_ids=ids, logits_to_keep=LABELS, use_cache=False).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["full", "lora"])
def test_flops_are_those_that_pytorch_counts(lora: LoraConfig | None, checkpointing: bool) -> None:
    config = llama()
    size = fake(config, lora, gradient_checkpointing=checkpointing).size
    tokens, labels, squares = NUM_ROWS * LENGTH, NUM_ROWS * LABELS, NUM_ROWS * LENGTH**2
    formula = training_flops(size, tokens, labels, squares, checkpointing)
    counted = counted_flops(config, lora, checkpointing)
    # The first layer's frozen matrices pass nothing on to the embeddings below: less than a layer's share.
    assert counted <= formula * 1.001
    assert counted == pytest.approx(formula, rel=0.03 if lora else 0.001)


# Memory by phase, in numbers small enough to add up by hand

ZERO = ZeroSettings(
    stage=0,
    offloads_optimizer=False,
    offloads_weights=False,
    reduce_bucket=10,
    num_buckets=1,
    prefetch=5,
    persistence=0,
    reuse_distance=100_000,
    max_live=100_000,
    sub_group=100_000,
)
SIZE = replace(
    fake(llama()).size,
    num_weights=1000,
    num_trained=1000,
    weight_bytes=2000,
    parameter_sizes=(400, 600),
    largest_trained=600,
    largest_dequantized=0,
)
TRACE = MicroBatchTrace(Peak(5000, 300), Peak(4500, 100), Peak(), Peak(4000, 200, 1500), Peak())
BF16 = Placement(ZERO, 1, 2, "adamw", num_micro_batches=2, gradient_checkpointing=False)


def place(stage: int, num_gpus: int, **changes: object) -> Placement:
    zero = {name: changes.pop(name) for name in list(changes) if name in ZeroSettings.__slots__}
    settings = replace(ZERO, stage=stage, num_buckets=2 if stage == 2 else 1, **zero)  # type: ignore[arg-type]
    return replace(BF16, zero=settings, num_gpus=num_gpus, **changes)  # type: ignore[arg-type]


def phases(placement: Placement) -> Iterator[Memory]:
    return iter(memory_by_phase(SIZE, TRACE, None, placement).values())


def test_zero0_in_bf16() -> None:
    passes, reduction, step = phases(place(0, 1))
    assert passes == Memory(2000, 2000, 12_000, 5000, 300, 0)  # masters and two moments
    assert reduction == Memory(2000, 2000, 12_000, buffers=2000)  # all gradients flattened
    assert step == Memory(2000, 2000, 12_000, buffers=4000)  # fp32 gradients


def test_zero0_in_fp32_has_no_masters() -> None:
    size = replace(SIZE, weight_bytes=4000)
    _, _, step = memory_by_phase(size, TRACE, None, place(0, 1, element_bytes=4)).values()
    assert step == Memory(4000, 4000, 8000)


def test_one_micro_batch_begins_without_gradients() -> None:
    passes = next(phases(place(0, 1, num_micro_batches=1)))
    assert passes == Memory(2000, 1500, 12_000, 4000, 200, 0)


def test_zero1_shares_the_optimizer() -> None:
    passes, reduction, step = phases(place(1, 2))
    assert passes == Memory(2000, 2000, 6000, 5000, 300, 20)
    assert reduction == Memory(2000, 2000 + 1000 - 20, 6000, buffers=20 + 20)
    assert step == Memory(2000, 1000, 6000, buffers=1000 + 2000)  # joined, then fp32


def test_zero2_shares_gradients() -> None:
    passes, _, step = phases(place(2, 2))
    # Two partitions while the second is added up, two buckets, and the largest gradient copied to be summed.
    assert passes == Memory(2000, 2000, 6000, 4500, 100, 40 + 1200)
    assert step.total == 2000 + 6000 + 2000 + 2000


def test_zero3_shares_weights_and_gathers_what_it_needs_soon() -> None:
    passes, _, step = phases(place(3, 2))
    gathered = 2000 + 1200  # all of them within the distance, and the largest once more on its way
    assert passes == Memory(1000, 1000, 6000, 4500, 100, 20 + gathered + 1200)  # its gradient is copied to be summed
    assert step == Memory(1000, 1000, 6000, buffers=20 + 1000 + 2000)  # joined, then fp32
    near = next(phases(place(3, 2, reuse_distance=10, max_live=10)))
    assert passes.total - near.total == 2000 - 1200  # one parameter at a time


def test_zero3_evaluates_with_whole_weights() -> None:
    evaluation = memory_by_phase(SIZE, TRACE, 777, place(3, 2))["evaluation"]
    assert evaluation == Memory(1000, 1000, 6000, activations=777, buffers=2000 + 20)
    assert memory_by_phase(SIZE, TRACE, 777, place(2, 2))["evaluation"] == Memory(2000, 0, 6000, activations=777)


def test_offloading_moves_the_optimizer_to_the_machine() -> None:
    placement = place(3, 2, offloads_optimizer=True, offloads_weights=True)
    passes, _, step = phases(placement)
    assert (passes.weights, passes.gradients, passes.optimizer, step.total) == (0, 0, 0, 20)
    assert host_bytes(SIZE, placement) == 1000 + (12 + 6) * 500
    assert host_bytes(SIZE, place(3, 2)) == 0


def test_eight_bit_moments_take_two_bytes() -> None:
    _, _, step = phases(place(0, 1, optimizer="paged_adamw_8bit"))
    assert step == Memory(2000, 2000, 6032, buffers=4000)  # masters, two moments, their scales


def test_a_quantised_matrix_is_unpacked_to_be_used() -> None:
    size = replace(SIZE, largest_dequantized=50)
    plain, unpacked = (next(iter(memory_by_phase(s, TRACE, None, place(2, 1)).values())) for s in (SIZE, size))
    assert unpacked.total - plain.total == 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora-bf16-zero0", "full-bf16-zero3"])
def test_measured_memory_is_as_predicted(name: str) -> None:
    from benchmarks.memory_model import report

    error = float(report(name).split("|")[5].replace("%", ""))
    assert abs(error) < 15
