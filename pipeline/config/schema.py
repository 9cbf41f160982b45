"""Every setting of a run, as frozen dataclasses: the single source of truth for recipes and the command line."""

from dataclasses import dataclass, field
from typing import Any, Literal

ScheduleKind = Literal["fixed", "adaptive", "explicit_cot", "no_cot"]
TrackerName = Literal["tensorboard", "wandb", "trackio"]


@dataclass(frozen=True)
class ColumnsConfig:
    """What the fields of a row are called in the sources. Text has no names."""

    question: str = "question"
    """Column or key of the question."""
    cot: str = "cot"
    """Of the chain of thought as one text, whose steps are its lines."""
    steps: str = "steps"
    """Of the chain of thought as a list of steps."""
    answer: str = "answer"
    """Of the answer."""
    messages: str = "messages"
    """Of a list of chat messages, which takes the place of all the others."""


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from."""

    train: str = ""
    """Training rows: a file (text, JSONL, JSON, CSV, Parquet, GSM8K's own JSONL) or a Hub name such as
    ``openai/gsm8k:main``."""
    validation: str = ""
    """Validation rows, in any of the same forms. Model selection uses these rows and no others."""
    train_split: str = "train"
    """Split read when ``train`` is a Hub name."""
    validation_split: str = "validation"
    """Split read when ``validation`` is a Hub name."""
    source_format: Literal["auto", "text", "jsonl", "json", "csv", "parquet", "gsm8k", "hub"] = "auto"
    """Format of both sources; ``auto`` decides by extension and first row."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """What the fields of a row are called there."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """What a broken row does: stop the run, or be counted and listed."""
    num_train: int | None = None
    """Use only the first so many training rows; null uses all."""
    max_tokens: int | None = None
    """Longest full row in tokens; longer rows are dropped and counted. The paper uses 150 on GSM8K."""
    cache_dir: str = "~/.cache/tacit"
    """Folder of the tokenised Arrow cache, and of what `tacit plan` measured."""


@dataclass(frozen=True)
class FormatConfig:
    """How one row is written as text.

    A row reads ``question first_separator cot second_separator answer end``. ``{bos}`` and ``{eos}`` stand for the
    tokenizer's special tokens (``{bos}`` for nothing where the tokenizer does not use one). As ``question``, ``{chat}``
    stands for all that the tokenizer's chat template writes up to where the assistant begins.
    The defaults are those of arXiv:2405.14838.
    """

    question: str = "{bos} {question} "
    """Template of the question, around ``{question}``; or ``{chat}``, which conversations of several messages need."""
    first_separator: str = "{eos}"
    """Between question and CoT; may be empty."""
    cot: str = " {cot} "
    """Template of the CoT."""
    second_separator: str = "{eos}"
    """Between CoT and answer; may be empty."""
    answer: str = " #### {answer} "
    """Template of the answer."""
    end: str = "{eos}"
    """What ends a row. Decoding stops here, so it must be one token."""
    keep_second_separator: bool = True
    """Whether the second separator stays in a row whose last CoT token has been removed."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained."""

    name_or_path: str = ""
    """Hugging Face model, or folder of one, whose weights training starts from. Empty trains from scratch."""
    from_scratch: dict[str, Any] | None = None
    """Transformers configuration of a randomly initialised model: ``model_type`` and any of that model's fields."""
    tokenizer: str = ""
    """Tokenizer name or folder; empty takes the model's own; ``words`` is the built-in one for the synthetic tasks."""
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = "auto"
    """Attention kernel; ``auto`` takes flash_attention_2 where a GPU and the package allow it, else sdpa."""
    padding_free: bool = True
    """Leave padding out of all that is computed in training, where the architecture allows that."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    num_positions: int | None = None
    """Positions of the model, if more than its own; a learned table is extended by repeating it. Null: its own."""
    quantization: Literal["none", "int8", "nf4"] = "none"
    """How the frozen base is stored under LoRA, by bitsandbytes; ``nf4`` is QLoRA's 4 bits (arXiv:2305.14314)."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model or tokenizer. Leave off unless you have read that code."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on a frozen base (arXiv:2106.09685), by peft. Without a rank every weight is trained."""

    rank: int | None = None
    """Rank of the adapters; null trains the whole model."""
    alpha: int = 32
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input."""
    targets: list[str] = field(default_factory=list)
    """Names of the linear layers that get adapters, such as ``q_proj``; empty takes all but the output head."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained in full beside the adapters and saved with them, such as ``embed_tokens``."""


@dataclass(frozen=True)
class RemovalConfig:
    """How CoT tokens leave a row (arXiv:2405.14838, section 3)."""

    side: Literal["left", "right"] = "left"
    """Which end of the CoT goes first."""
    unit: Literal["token", "step"] = "token"
    """What one removal takes: a token, or a whole reasoning step."""
    smoothing_lambda: float = 4.0
    """Offset o is drawn with P(o) = (1 - e^-lambda) e^(-lambda o); ``.inf`` turns smoothing off."""
    earlier_share: float = 0.0
    """Share of the rows that lose fewer units: as many as in the stage before, or any number between, drawn evenly."""
    earlier_from: int = 0
    """Removed units from which on a stage has such rows."""
    right_first: int = 0
    """Tokens that go from the right end before any goes from the left, such as sums that stand behind what they add."""
    keep_positions: bool = False
    """Give what stays the positions it would have behind the longest CoT in full. Left side and tokens only."""


@dataclass(frozen=True)
class AdaptiveConfig:
    """When the adaptive schedule moves on: a stage is held until the running mean of its training loss recovers."""

    loss_threshold: float | None = 0.05
    """The running loss below which a stage ends; null if only the relative threshold counts."""
    relative_threshold: float | None = None
    """A stage also ends below this factor times the running loss with which the one before ended (one that went back
    does not count); null: off."""
    window: int = 50
    """Optimizer steps in the running mean."""
    min_steps: int = 50
    """Fewest optimizer steps in a stage."""
    max_steps: int = 3000
    """Most optimizer steps in a stage before it counts as stalled."""
    on_stall: Literal["advance", "back"] = "advance"
    """What a stalled stage does: go on all the same, or go back by one stage."""
    slow_down: float = 2.0
    """Factor on ``min_steps`` and ``max_steps`` of the stages that follow each time the schedule goes back."""
    removed_per_stage: int = 1
    """CoT units by which one stage differs from the next."""
    stops: list[int] = field(default_factory=list)
    """Numbers of removed units at which stages stand, in place of every so many, such as where a reasoning step ends;
    the stage with everything removed follows the last of them."""


@dataclass(frozen=True)
class ScheduleConfig:
    """The course of the stages (arXiv:2405.14838, section 3; ``adaptive`` is ours)."""

    kind: ScheduleKind = "fixed"
    """``fixed`` pace, ``adaptive``, or one of the two baselines ``explicit_cot`` and ``no_cot``."""
    removed_per_epoch: float = 8.0
    """CoT units removed an epoch under the fixed schedule (the paper's delta)."""
    hold_epochs: float = 0.0
    """Epochs on the full CoT before the fixed schedule begins to count."""
    start_removed: int = 0
    """CoT units already removed at the first step, for runs that start from an explicit-CoT checkpoint."""
    remove_all_beyond: int | None = None
    """As soon as so many units are scheduled, everything that is left goes at once; null waits for the longest CoT."""
    final_epochs: float = 1.0
    """Epochs in the last stage (for the baselines: in their only stage)."""
    max_steps: int | None = None
    """Optimizer steps at which the run ends, whatever the stage; the exact length of a run of one stage."""
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    """Settings of the adaptive schedule."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW and its learning rate."""

    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    """``paged_adamw_8bit`` (bitsandbytes) keeps the moments in 8 bits, and on a GPU pages them out when it is full."""
    lr: float = 5e-5
    """Peak learning rate. 5e-5 is the paper's for GPT-2; small models from scratch want 1e-4 to 1e-3."""
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Shape of the learning rate after warm-up; cosine and linear reach zero right after the run's last step."""
    final_decay: float = 0.0
    """Share of the last stage, its last steps, over which the learning rate falls linearly to zero. With a constant
    rate before it this is warm-up, stable, decay; it needs no length of the run, and may be decided on ``--resume``."""
    warmup_steps: int = 0
    """Optimizer steps over which the learning rate rises from zero at the run's beginning."""
    reset_warmup_steps: int = 0
    """The same after each optimizer reset."""
    reset_at_stage: bool = True
    """Zero the moments and step count of AdamW whenever the number of removed tokens changes."""
    global_batch_size: int = 32
    """Rows in one optimizer step, over all ranks."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay."""
    max_grad_norm: float = 1.0
    """Global gradient norm above which gradients are scaled down; 0 turns clipping off."""
    on_nonfinite: Literal["skip", "roll_back"] = "skip"
    """What a step does whose loss or gradient is inf or NaN: ``skip`` it, leaving weights and moments as they are, or
    ``roll_back`` weights and moments to the newest checkpoint. Data and schedule go on behind it in both cases."""
    max_nonfinite: int = 3
    """Such steps in a row after which the run stops."""


@dataclass(frozen=True)
class EngineConfig:
    """How DeepSpeed runs the model."""

    deepspeed: str = "ds_configs/zero0.json"
    """DeepSpeed JSON with ZeRO stage and offload."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the model; under bf16 the optimizer keeps fp32 masters."""
    micro_batch_tokens: int = 16384
    """Most padded tokens a rank puts through the model at once. The memory setting: batches stay as they are."""
    num_threads: int | None = None
    """CPU threads a rank computes with; null leaves the choice to the launcher (OMP_NUM_THREADS) or to PyTorch."""
    rank_timeout: int = 600
    """Seconds for which a rank may be silent, or stand still, before the other ranks end the run and name it."""


@dataclass(frozen=True)
class EvaluationConfig:
    """Greedy exact match on the validation rows."""

    every_steps: int | None = None
    """Evaluate also every so many optimizer steps; null evaluates at the end of stages and of the run only."""
    every_stages: int = 1
    """Evaluate at the end of every so many stages (always at the end of the first and in the last)."""
    num_examples: int | None = 500
    """Validation rows used, from the first; null uses all."""
    batch_size: int = 256
    """Rows decoded together on one rank."""
    verify: bool = True
    """Try the reference answers first, and decode only from where the model disagrees: the same answers, sooner.
    An ``int8`` base computes a token otherwise with other tokens beside it; false then makes each pass one token."""


@dataclass(frozen=True)
class RunConfig:
    """The run directory and what is written to it."""

    output_dir: str = ""
    """The run directory."""
    seed: int = 0
    """Seeds the weights, the order of rows, smoothing and dropout."""
    log_every: int = 10
    """Optimizer steps between two rows of metrics.jsonl."""
    checkpoint_every: int | None = None
    """Optimizer steps between two checkpoints; null leaves it to the stages and the clock. One is written at the end of
    every evaluated stage, when the run is asked to stop, and when a file ``save_now`` appears in the run directory."""
    checkpoint_minutes: float | None = 30.0
    """Minutes after which a checkpoint is written if there was none meanwhile; null does not look at the clock."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept."""
    keep_stage_checkpoints: bool = False
    """Whether checkpoints written at a stage's end are kept as well."""
    collapse_ratio: float = 2.0
    """A stage counts as collapsed if the loss at its end is above so many times that of the last stage which did not;
    recorded and told, nothing else."""
    keep_stages: list[int] = field(default_factory=list)
    """Numbers of removed units whose model is kept under ``stages/`` when that stage ends; 0 is explicit CoT."""
    keep_every: int | None = None
    """Keep also the model of every so many removed units, beginning with 0: 1 keeps all, and null none. Of a LoRA run
    only adapters are stored."""
    trackers: list[TrackerName] | None = None
    """Where metrics go besides metrics.jsonl; null takes TensorBoard where it is installed, ``[]`` none."""


@dataclass(frozen=True)
class Config:
    """A recipe."""

    data: DataConfig = field(default_factory=DataConfig)
    """Where the rows come from."""
    format: FormatConfig = field(default_factory=FormatConfig)
    """How one row is written as text."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Which model is trained."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters instead of full finetuning."""
    removal: RemovalConfig = field(default_factory=RemovalConfig)
    """How CoT tokens leave a row."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The course of the stages."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its learning rate."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How DeepSpeed runs the model."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Greedy exact match on the validation rows."""
    run: RunConfig = field(default_factory=RunConfig)
    """The run directory."""
