"""The one place that knows DeepSpeed: build, train step, optimizer reset, gathering, save and load.

One path serves all: a single CPU process (ZeRO-0) and a cluster (ZeRO-3) run the same code.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch._dynamo  # noqa: F401  (imported inside zero.Init it fails on a signature check)
import torch.distributed as torch_dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations import HfDeepSpeedConfig

from pipeline.batching import IGNORE_INDEX, MicroBatch, StepBatch
from pipeline.config import EngineConfig, OptimConfig
from pipeline.ds_config import fill_ds_config, load_ds_config
from pipeline.errors import UserError
from pipeline.ranks import rank, world_size

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimizer step measured, over all ranks."""

    loss: float
    """Mean over the label tokens of the global batch."""
    token_accuracy: float
    """Share of label tokens whose argmax is right."""
    grad_norm: float
    """Global gradient norm before clipping."""


def init_distributed() -> None:
    """Join the launcher's process group, or make one of a single process; quiets DeepSpeed's log to warnings."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls collectives by their old names, which PyTorch remarks on at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if torch_dist.is_initialized():
        return
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "127.0.0.1")):
        os.environ.setdefault(name, value)
    if os.environ["WORLD_SIZE"] == "1":
        os.environ.setdefault("MASTER_PORT", "0")
    # Gloo serves CPU ranks well enough. DeepSpeed would else probe every compiler here, and compile a shared-memory
    # kernel for over a minute at first use.
    deepspeed.ops.__compatible_ops__ = {}
    # Collectives of objects put their tensors on the current device, which must be this rank's own.
    deepspeed.get_accelerator().set_device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(dist_backend=None, verbose=False)


class _SafeCheckpointEngine(TorchCheckpointEngine):
    """Loads engine state without running code from the file; DeepSpeed's own unpickles anything."""

    def __init__(self) -> None:
        super().__init__()
        self.zipfile_serialization = True  # torch's present format

    def load(self, path: str, map_location: Any = None) -> Any:
        with torch.serialization.safe_globals([ZeroStageEnum, LossScaler, fragment_address]):
            return torch.load(path, map_location=map_location, weights_only=True)


class Engine:
    """A model and its optimizer under DeepSpeed."""

    def __init__(self, ds_engine: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
        self._ds = ds_engine
        self._ds.checkpoint_engine = _SafeCheckpointEngine()
        self._base_optimizer = optimizer
        self._seed = seed

    @property
    def model(self) -> PreTrainedModel:
        """The module under DeepSpeed; its weights are in parts under ZeRO-3."""
        return self._ds.module

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._ds.device

    def train_step(self, batch: StepBatch, learning_rate: float) -> StepMetrics:
        """Do one optimizer step on a global batch.

        The loss is the mean over all label tokens of the global batch: each micro-batch contributes its summed token
        loss over that number, so no arrangement in micro-batches or ranks changes it.

        Args:
            batch: This rank's share. Every rank has the same number of micro-batches.
            learning_rate: Of this step.
        """
        # Dropout is a function of (seed, step, rank), so a run that was cut goes on as if it had not been.
        torch.manual_seed(hash((self._seed, batch.step, rank())) % 2**63)
        for group in self._base_optimizer.param_groups:
            group["lr"] = learning_rate
        self._ds.train()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for i, micro_batch in enumerate(batch.micro_batches):
            self._ds.set_gradient_accumulation_boundary(i == len(batch.micro_batches) - 1)
            loss_sum, num_correct = token_loss_sum(self._ds, micro_batch, self.device)
            # DeepSpeed averages gradients over ranks; the factor makes that a sum.
            scaled = loss_sum * (world_size() / batch.num_label_tokens)
            self._ds.backward(scaled, scale_wrt_gas=False)
            totals += torch.stack([loss_sum.detach().double(), num_correct.double()])
            unclipped_norm = self._plain_grad_norm()
            self._ds.step()
        torch_dist.all_reduce(totals)
        loss, accuracy = (totals / batch.num_label_tokens).tolist()
        grad_norm = self._ds.get_global_grad_norm() if unclipped_norm is None else unclipped_norm
        return StepMetrics(loss, accuracy, float(grad_norm))

    def _plain_grad_norm(self) -> torch.Tensor | None:
        """Return the gradient norm where DeepSpeed clips without keeping it: fp32 without ZeRO."""
        if self._ds.optimizer is not self._base_optimizer or not self._ds.is_gradient_accumulation_boundary():
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def reset_optimizer_state(self) -> None:
        """Zero AdamW's moments and step count in place; weights, fp32 masters and learning rate stay.

        In place, because DeepSpeed keeps references to these tensors. Before the first step there is nothing to zero.

        Source: arXiv:2405.14838, section 3.
        """
        for state in self._base_optimizer.state.values():
            for name in MOMENTS:
                state[name].zero_()
            if torch.is_tensor(state["step"]):
                state["step"].zero_()
            else:
                state["step"] = 0
        for group in self._base_optimizer.param_groups:
            if "step" in group:  # DeepSpeed's FusedAdam counts here
                group["step"] = 0

    def optimizer_state(self) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Return what AdamW updates on this rank: fp32 weights, whatever the model's precision, each with its state.

        Empty before the first step.
        """
        return list(self._base_optimizer.state.items())

    @contextmanager
    def gathered(self) -> Iterator[PreTrainedModel]:
        """Yield the model in evaluation mode, whole on every rank.

        Under ZeRO-3 the weights are gathered once, not per token, and DeepSpeed's hooks are off meanwhile.
        """
        was_training = self.model.training
        self.model.eval()
        try:
            if not self._is_partitioned:
                yield self.model
                return
            offload = self._ds.optimizer.parameter_offload
            with deepspeed.zero.GatheredParameters(list(self.model.parameters())):
                for parameter in self.model.parameters():
                    parameter.ds_active_sub_modules.clear()
                for hook in (*offload.forward_hooks, *offload.backward_hooks):
                    hook.remove()
                offload.forward_hooks, offload.backward_hooks = [], []
                try:
                    yield self.model
                finally:
                    offload._register_deepspeed_module(offload.module)
        finally:
            self.model.train(was_training)

    def gathered_weights(self) -> dict[str, torch.Tensor]:
        """Return all weights on the CPU, by name, on rank 0; other ranks take part and return nothing."""
        weights = {}
        for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers()):
            partitioned = [tensor] if hasattr(tensor, "ds_id") else []
            with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
                if rank() == 0:
                    weights[name] = tensor.detach().cpu().clone()
        persistent = set(self.model.state_dict())
        return {name: weight for name, weight in weights.items() if name in persistent}

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state; every rank writes its part."""
        self._ds.save_checkpoint(str(folder), tag="engine", save_latest=False)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, under the same number of ranks."""
        path, _ = self._ds.load_checkpoint(str(folder), tag="engine", load_lr_scheduler_states=False)
        assert path is not None, folder

    @property
    def _is_partitioned(self) -> bool:
        return self._ds.zero_optimization_stage() == 3


def build_engine(
    make_model: Callable[[], PreTrainedModel],
    hidden_size: int,
    config: EngineConfig,
    optim: OptimConfig,
    seed: int,
    *,
    partitions_on_load: bool,
) -> Engine:
    """Put a model under DeepSpeed, with AdamW.

    Args:
        make_model: Builds the model.
        hidden_size: Of the model, for DeepSpeed's bucket sizes.
        config: DeepSpeed JSON and precision.
        optim: AdamW's settings.
        seed: Seeds dropout.
        partitions_on_load: Under ZeRO-3, whether weights are shared out while ``make_model`` loads them, so that no
            rank ever holds the whole model.

    Raises:
        UserError: If the DeepSpeed JSON is at fault.
    """
    ds_config = fill_ds_config(load_ds_config(config), config, optim, hidden_size)
    # Transformers looks this up while a model loads, through a weak reference: it must live until then.
    zero_config = HfDeepSpeedConfig(ds_config) if partitions_on_load else None
    model = make_model()
    del zero_config
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=0.0,  # set before each step
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    try:
        ds_engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"engine.deepspeed ({config.deepspeed}): DeepSpeed refuses it ({reason}); correct it."
        ) from error
    engine = Engine(ds_engine, optimizer, seed)
    # With bf16 and no ZeRO, DeepSpeed allocates the moments by a step on zero gradients, which counts as the first.
    engine.reset_optimizer_state()
    return engine


def token_loss_sum(
    model: Callable[..., Any], micro_batch: MicroBatch, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the summed cross-entropy of a micro-batch's label tokens, and how many argmaxes are right.

    Logits are computed only at positions that predict a label. A micro-batch without labels gives 0, and takes part in
    the backward pass with zero gradients.
    """
    labels = micro_batch.labels[:, 1:].to(device)
    predicts = torch.zeros_like(micro_batch.labels, dtype=torch.bool, device=device)  # (batch, seq)
    predicts[:, :-1] = labels != IGNORE_INDEX
    logits = model(
        input_ids=micro_batch.input_ids.to(device),
        attention_mask=micro_batch.attention_mask.to(device),
        position_ids=micro_batch.position_ids.to(device),
        logits_to_keep=predicts,
        use_cache=False,
    ).logits  # (num_labels, vocab)
    targets = labels[labels != IGNORE_INDEX]
    logits = logits.reshape(-1, logits.shape[-1]).float()
    loss_sum = functional.cross_entropy(logits, targets, reduction="sum") if len(targets) else logits.sum()
    return loss_sum, (logits.argmax(-1) == targets).sum()
