"""Flash attention over packed rows has the losses and gradients of padded rows, in every packed architecture."""

from unittest.mock import Mock

import pytest
import torch

from pipeline.batching import collate
from pipeline.loss import token_loss_sum
from pipeline.modeling import packed_attention
from tests.unit.test_packing import ARCHITECTURES, LAYOUT, build, rows

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that tests may use; see `make test-gpu`")
GPU = torch.device("cuda")
HEADS = {"gpt2": {}, "gpt_neox": {"num_attention_heads": 2}}  # flash attention takes widths that 8 divides


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_flash_is_exact(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flash = Mock(wraps=packed_attention._flash)
    monkeypatch.setattr(packed_attention, "_flash", flash)
    fields = {**ARCHITECTURES[model_type], **HEADS.get(model_type, {"head_dim": 8})}
    model = build(model_type, fields).to(GPU, torch.bfloat16)
    losses, gradients = [], []
    for packed in (True, False):
        model.zero_grad()
        loss, _ = token_loss_sum(model, collate(rows(), LAYOUT), GPU, packed=packed)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))
    assert flash.called
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0).item() > 0.995


def test_dropout_drops() -> None:
    model = build("gpt2", {**ARCHITECTURES["gpt2"], "attn_pdrop": 0.5}).to(GPU, torch.bfloat16)
    batch = collate(rows(), LAYOUT)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return token_loss_sum(model, batch, GPU, packed=True)[0].item()

    assert loss(0) == loss(0) != loss(1)
