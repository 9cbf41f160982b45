"""Whether a run fits a GPU, and which settings would make it fit; nothing is advised that was not computed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.plan.memory import Memory
from pipeline.plan.planner import Planner

GIB = 2**30
CARDS = (24, 40, 80)  # GiB
# Left free: CUDA's context, its libraries and the communicator's buffers, and what the allocator cannot use.
CONTEXT_BYTES = GIB
FRAGMENTATION = 0.05
ADVISED_RANK = 16
MOST_GPUS = 16
PASSES, EVALUATION = "forward and backward", "evaluation"


@dataclass(frozen=True, slots=True)
class Advice:
    """Settings to add, as they are typed, and what they lead to."""

    settings: str
    peak_bytes: int
    host_bytes: int
    """In the machine's memory for each GPU, where something is offloaded."""


@dataclass(frozen=True, slots=True)
class CardAdvice:
    """Whether a run fits one kind of GPU."""

    gib: int
    fits: bool
    largest_micro_batch_tokens: int | None
    """Where it fits: the most tokens in a micro-batch that would fit too, up to the rows of a whole step."""
    advice: list[Advice]
    """Where it does not: ways to make it fit, each sufficient."""


@dataclass(frozen=True, slots=True)
class _Variant:
    """A recipe with some settings changed."""

    config: Config
    num_gpus: int
    settings: tuple[str, ...] = ()

    def change(self, section: str, text: str, **fields: object) -> "_Variant":
        changed = replace(self.config, **{section: replace(getattr(self.config, section), **fields)})
        return replace(self, config=changed, settings=(*self.settings, text))


def needs(peak_bytes: int) -> int:
    """Return the memory that a GPU must have for a peak: with what CUDA takes and what fragmentation loses."""
    return round(peak_bytes * (1 + FRAGMENTATION)) + CONTEXT_BYTES


def advise(config: Config, planner: Planner, num_gpus: int, gib: int) -> CardAdvice:
    """Return whether a recipe fits a GPU of ``gib`` GiB, and what would help or what room is left.

    Args:
        config: The recipe.
        planner: Knows architecture and rows.
        num_gpus: That share the work.
        gib: Memory of each, in GiB.
    """
    start = _Variant(config, num_gpus)
    if needs(max(memory.total for memory in planner.memory(config, num_gpus).values())) <= gib * GIB:
        return CardAdvice(gib, True, _largest_micro_batch_tokens(planner, start, gib), [])
    like = max(planner.largest_micro_batch(config, num_gpus).num_rows, 2)
    found = []
    for family in (_same_gpus, _offloading, _more_gpus, _adapters):
        fitting = (advice for variant in family(start) if (advice := _fit(planner, variant, gib, like)))
        first = next(fitting, None)
        if first is not None:
            found.append(first)
    return CardAdvice(gib, False, None, found)


def _same_gpus(start: _Variant) -> Iterator[_Variant]:
    """Yield what trains the same weights on the same GPUs, from the least change to the largest."""
    for change in (
        (),
        (_checkpointing,),
        (_bf16,),
        (_eight_bit,),
        (_checkpointing, _bf16),
        (_checkpointing, _eight_bit),
    ):
        yield _changed(start, change)
    if start.num_gpus > 1:
        yield _changed(start, (_zero(2),))
        yield _changed(start, (_zero(3),))
    yield _changed(start, (_checkpointing, _bf16, _zero(3), _eight_bit))


def _offloading(start: _Variant) -> Iterator[_Variant]:
    yield _changed(start, (_zero("3_offload"),))
    yield _changed(start, (_zero("3_offload"), _checkpointing, _bf16))


def _more_gpus(start: _Variant) -> Iterator[_Variant]:
    num_gpus = 2 * start.num_gpus
    while num_gpus <= MOST_GPUS:
        more = replace(start, num_gpus=num_gpus, settings=(f"--gpus {num_gpus}",))
        for change in ((_zero(2),), (_zero(3),), (_zero(3), _checkpointing), (_zero(3), _checkpointing, _bf16)):
            yield _changed(more, change)
        num_gpus *= 2


def _adapters(start: _Variant) -> Iterator[_Variant]:
    if start.config.model.from_scratch is not None:  # nothing trained for adapters to stand on
        return
    for change in ((_lora,), (_lora, _checkpointing), (_lora, _checkpointing, _bf16)):
        yield _changed(start, change)
    yield _changed(start, (_lora, _nf4, _checkpointing, _bf16))


def _changed(variant: _Variant, changes: tuple[Callable[[_Variant], _Variant], ...]) -> _Variant:
    for change in changes:
        variant = change(variant)
    return variant


def _checkpointing(variant: _Variant) -> _Variant:
    if variant.config.model.gradient_checkpointing:
        return variant
    return variant.change("model", "--model.gradient_checkpointing true", gradient_checkpointing=True)


def _bf16(variant: _Variant) -> _Variant:
    if variant.config.engine.precision == "bf16":
        return variant
    return variant.change("engine", "--engine.precision bf16", precision="bf16")


def _eight_bit(variant: _Variant) -> _Variant:
    name = "paged_adamw_8bit"
    if variant.config.optim.optimizer == name:
        return variant
    return variant.change("optim", f"--optim.optimizer {name}", optimizer=name)


def _lora(variant: _Variant) -> _Variant:
    if variant.config.lora.rank is not None:
        return variant
    return variant.change("lora", f"--lora.rank {ADVISED_RANK}", rank=ADVISED_RANK)


def _nf4(variant: _Variant) -> _Variant:
    if variant.config.model.quantization == "nf4":
        return variant
    return variant.change("model", "--model.quantization nf4", quantization="nf4")


def _zero(stage: int | str) -> Callable[[_Variant], _Variant]:
    path = f"ds_configs/zero{stage}.json"

    def change(variant: _Variant) -> _Variant:
        if variant.config.engine.deepspeed == path:
            return variant
        return variant.change("engine", f"--engine.deepspeed {path}", deepspeed=path)

    return change


def _fit(planner: Planner, variant: _Variant, gib: int, like: int) -> Advice | None:
    """Return a variant as advice if it fits, with smaller batches where only these are too large."""
    limit = gib * GIB
    while True:
        try:
            phases = planner.memory(variant.config, variant.num_gpus, like)
        except UserError:  # settings that do not go together
            return None
        peak = max(memory.total for memory in phases.values())
        if needs(peak) <= limit:
            host = planner.host_memory(variant.config, variant.num_gpus)
            return Advice(" ".join(variant.settings), peak, host) if variant.settings else None
        smaller = _with_smaller_batch(planner, variant, phases, limit)
        if smaller is None:
            return None
        variant = smaller


def _with_smaller_batch(planner: Planner, variant: _Variant, phases: dict[str, Memory], limit: int) -> _Variant | None:
    """Return a variant with half the batch in the phase that is too large; None if no batch can help."""
    too_large = {name for name, memory in phases.items() if needs(memory.total) > limit}
    config = variant.config
    if not too_large <= {PASSES, EVALUATION}:
        return None
    without = [phases[name].total - phases[name].activations - phases[name].logits for name in too_large]
    if needs(max(without)) > limit:
        return None
    if EVALUATION in too_large:
        number = config.evaluation.batch_size // 2
        return _set(variant, "evaluation", "batch_size", number) if number else None
    largest = planner.largest_micro_batch(config, variant.num_gpus)
    number = (largest.num_rows // 2) * largest.row_length
    return _set(variant, "engine", "micro_batch_tokens", number) if number else None


def _set(variant: _Variant, section: str, field: str, number: int) -> _Variant:
    """Set a number, in place of what was set for the same field before."""
    option = f"--{section}.{field} "
    kept = tuple(text for text in variant.settings if not text.startswith(option))
    return replace(variant, settings=kept).change(section, f"{option}{number}", **{field: number})


def _largest_micro_batch_tokens(planner: Planner, variant: _Variant, gib: int) -> int:
    """Return the most tokens in a micro-batch with which a run still fits, up to all rows of a step at once."""
    largest = planner.largest_micro_batch(variant.config, variant.num_gpus)
    all_rows = largest.num_rows * largest.per_step

    def fits(num_rows: int, like: int | None) -> bool:
        changed = _set(variant, "engine", "micro_batch_tokens", num_rows * largest.row_length)
        memory = planner.memory(changed.config, changed.num_gpus, like)
        return needs(max(part.total for part in memory.values())) <= gib * GIB

    low, high = largest.num_rows, all_rows
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle, max(largest.num_rows, 2)) else (low, middle - 1)
    while low > largest.num_rows and not fits(low, None):  # an estimate beyond what was traced may be too low
        low = max(largest.num_rows, low * 9 // 10)
    return low * largest.row_length
