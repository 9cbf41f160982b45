"""A model and its optimizer under DeepSpeed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from transformers import PreTrainedModel

from pipeline.batching import StepBatch
from pipeline.engine.optimizer import reset_state, squared_moments
from pipeline.engine.saved_state import TAG, SafeCheckpointEngine, shared_out_anew
from pipeline.errors import UserError
from pipeline.loss import token_loss_sum
from pipeline.modeling.attention import packs
from pipeline.ranks import rank, sum_over_ranks, world_size


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimizer step measured, over all ranks."""

    loss: float
    """Mean over the label tokens of the global batch."""
    token_accuracy: float
    """Share of label tokens whose argmax is right."""
    grad_norm: float
    """Global gradient norm before clipping."""

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are numbers; where they are not, the step has changed no weight and no moment."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Engine:
    """A model and its optimizer under DeepSpeed."""

    def __init__(self, ds_engine: Any, optimizer: torch.optim.Optimizer, seed: int, *, padding_free: bool) -> None:
        self._ds = ds_engine
        config = self.model.config
        self._packs_rows = padding_free and packs(config._attn_implementation, type(self.model), config)
        self._files = SafeCheckpointEngine()
        self._ds.checkpoint_engine = self._files
        self._base_optimizer = optimizer
        self._unclipped_norm: torch.Tensor | None = None
        optimizer.register_step_pre_hook(self._withhold_nonfinite)
        self._seed = seed

    @property
    def model(self) -> PreTrainedModel:
        """The module under DeepSpeed; its weights are in parts under ZeRO-3."""
        return self._ds.module

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self._ds.device

    @property
    def has_adapters(self) -> bool:
        """Whether adapters stand on a frozen base; only what was added to it is saved then."""
        return hasattr(self.model, "peft_config")

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
        if not self.model.training:  # it goes through all modules
            self._ds.train()
        totals = torch.zeros(2, dtype=torch.float64, device=self.device)
        for i, micro_batch in enumerate(batch.micro_batches):
            self._ds.set_gradient_accumulation_boundary(i == len(batch.micro_batches) - 1)
            loss_sum, num_correct = token_loss_sum(self._ds, micro_batch, self.device, packed=self._packs_rows)
            # DeepSpeed averages gradients over ranks; the factor makes that a sum.
            scaled = loss_sum * (world_size() / batch.num_label_tokens)
            self._ds.backward(scaled, scale_wrt_gas=False)
            totals += torch.stack([loss_sum.detach().double(), num_correct.double()])
            del loss_sum, num_correct, scaled  # or the next forward pass runs beside what this one kept
            self._unclipped_norm = self._plain_grad_norm()
            self._ds.step()
        loss, accuracy = (total / batch.num_label_tokens for total in sum_over_ranks(totals))
        grad_norm = self._ds.get_global_grad_norm() if self._unclipped_norm is None else self._unclipped_norm
        return StepMetrics(loss, accuracy, float(grad_norm))

    def _plain_grad_norm(self) -> torch.Tensor | None:
        """Return the gradient norm where DeepSpeed clips without keeping it: fp32 without ZeRO."""
        if self._ds.optimizer is not self._base_optimizer or not self._ds.is_gradient_accumulation_boundary():
            return None
        return torch.nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    def _withhold_nonfinite(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Take the gradients away before a step that DeepSpeed would not leave out: AdamW then changes nothing."""
        if self._unclipped_norm is not None and not torch.isfinite(self._unclipped_norm):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None

    def reset_optimizer_state(self) -> None:
        """Let AdamW start afresh on the weights it trains, as they are. Frozen weights are none of its business.

        Source: arXiv:2405.14838, section 3.
        """
        reset_state(self._base_optimizer)

    def moment_norms(self) -> tuple[float, float]:
        """Return the L2 norms of AdamW's first and second moments, over all ranks; 8-bit ones are not read: NaN."""
        squares = squared_moments(self._base_optimizer).to(self.device)
        if self._ds.zero_optimization():  # each rank has its part
            first, second = sum_over_ranks(squares)
        else:
            first, second = squares.tolist()
        return math.sqrt(first), math.sqrt(second)

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
        """Return what is trained, on the CPU, by name, on rank 0; other ranks take part and return nothing.

        That is the whole model, buffers and what an architecture never trains included, or the adapters alone where
        there are some.
        """
        weights = {}
        whole = (*self.model.named_parameters(), *self.model.named_buffers())
        for name, tensor in self._trained_parameters() if self.has_adapters else whole:
            partitioned = [tensor] if hasattr(tensor, "ds_id") else []
            with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
                if rank() == 0:
                    weights[name] = tensor.detach().cpu().clone()
        persistent = set(self.model.state_dict())
        return {name: weight for name, weight in weights.items() if name in persistent}

    def save(self, folder: Path) -> None:
        """Write trained weights and optimizer state; every rank writes its part. Frozen weights are left out.

        Raises:
            OSError: On a rank whose part could not be written, after every rank is through.
        """
        self._ds.save_checkpoint(str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=self.has_adapters)
        self._files.raise_fault()

    def load(self, folder: Path, num_saving_ranks: int) -> None:
        """Read what ``save`` wrote.

        Args:
            folder: Where ``save`` wrote.
            num_saving_ranks: World size of the run that saved. With another one now, the parts are put together and
                shared out anew.

        Raises:
            UserError: If the optimizer's state cannot be shared out anew.
        """
        if num_saving_ranks != world_size() and self._ds.zero_optimization():
            if not isinstance(self._base_optimizer, torch.optim.AdamW):
                raise UserError(
                    f"optim.optimizer: its 8-bit moments, saved by {num_saving_ranks} ranks, cannot be shared out "
                    f"among {world_size()}; start the run with {num_saving_ranks}."
                )
            with shared_out_anew(self._ds, folder) as universal:
                self._load(universal)
            return
        self._load(folder)

    def _load(self, folder: Path) -> None:
        path, _ = self._ds.load_checkpoint(
            str(folder),
            tag=TAG,
            load_lr_scheduler_states=False,
            load_module_strict=not self.has_adapters,
        )
        assert path is not None, folder

    def _trained_parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]

    @property
    def _is_partitioned(self) -> bool:
        return self._ds.zero_optimization_stage() == 3
