"""Loading a model: which attention, how many positions, and nothing missing."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from pipeline.config import LoraConfig, ModelConfig
from pipeline.errors import UserError
from pipeline.modeling import build_model, build_model_config, load_for_inference
from pipeline.modeling.attention import choose_attention
from pipeline.modeling.lora import quantization_config
from pipeline.modeling.positions import lacks_positions, write_extended
from pipeline.modeling.saved import load_adapted
from pipeline.word_tokenizer import build_word_tokenizer

TOKENIZER = build_word_tokenizer()
GPT2 = {"vocab_size": len(TOKENIZER), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
LLAMA = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
}


@pytest.fixture
def gpt2(tmp_path: Path) -> ModelConfig:
    """A saved GPT-2 with 8 positions."""
    return _saved(GPT2LMHeadModel(GPT2Config(**GPT2)), tmp_path / "gpt2")


def _saved(model: PreTrainedModel, folder: Path) -> ModelConfig:
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return ModelConfig(str(folder))


def _build(config: ModelConfig, lora: LoraConfig | None = None, num_positions: int = 8) -> PreTrainedModel:
    return build_model(config, lora or LoraConfig(), TOKENIZER, num_positions, 1, torch.float32, seed=0)


@pytest.mark.parametrize(
    ("has_gpu", "has_package", "dtype", "model_class", "kernel", "reason"),
    [
        (True, True, torch.bfloat16, LlamaForCausalLM, "flash_attention_2", "allow it"),
        (False, True, torch.bfloat16, LlamaForCausalLM, "sdpa", "no GPU"),
        (True, False, torch.bfloat16, LlamaForCausalLM, "sdpa", "flash-attn is not installed"),
        (True, True, torch.float32, LlamaForCausalLM, "sdpa", "precision float32"),
        (True, True, torch.bfloat16, PreTrainedModel, "eager", "no sdpa"),
    ],
)
def test_attention_is_the_fastest_that_all_allow(
    monkeypatch: pytest.MonkeyPatch,
    has_gpu: bool,
    has_package: bool,
    dtype: torch.dtype,
    model_class: type[PreTrainedModel],
    kernel: str,
    reason: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_package else None)
    chosen, why = choose_attention("auto", dtype, model_class)
    assert chosen == kernel and reason in why
    assert choose_attention("eager", dtype, model_class)[0] == "eager"


def test_the_kernel_chosen_is_the_models(gpt2: ModelConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pipeline"):
        assert _build(gpt2).config._attn_implementation == "packed_sdpa"
        assert _build(replace(gpt2, padding_free=False)).config._attn_implementation == "sdpa"
        assert _build(replace(gpt2, attention="eager")).config._attn_implementation == "eager"
    kernels = [line.partition("attention: ")[2].split(" (no")[0] for line in caplog.messages]
    assert kernels == ["sdpa, without padding", "sdpa, with padding", "eager, with padding (the recipe asks for it)"]


def test_a_longer_position_table_repeats_the_old_one_and_reloads(gpt2: ModelConfig, tmp_path: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(gpt2.name_or_path).eval()
    write_extended(gpt2.name_or_path, 19, tmp_path / "longer")
    longer = _build(ModelConfig(str(tmp_path / "longer")), num_positions=19).eval()
    table = longer.transformer.wpe.weight
    assert table.shape == (19, 16) and longer.config.max_position_embeddings == 19
    assert torch.equal(table[:8], before.transformer.wpe.weight)
    assert torch.equal(table[8:16], table[:8]) and torch.equal(table[16:], table[:3])
    short, long = torch.arange(8)[None], torch.arange(19)[None]
    with torch.no_grad():
        torch.testing.assert_close(longer(short).logits, before(short).logits, rtol=0, atol=1e-6)
        assert longer(long).logits.shape == (1, 19, len(TOKENIZER))
    assert longer.lm_head.weight is longer.transformer.wte.weight  # still tied


def test_only_a_learned_table_that_is_too_short_needs_extending(gpt2: ModelConfig, tmp_path: Path) -> None:
    config = build_model_config(gpt2, TOKENIZER)
    assert lacks_positions(config, 9)
    assert not lacks_positions(config, 8) and not lacks_positions(config, None)
    rotary = _saved(LlamaForCausalLM(LlamaConfig(**LLAMA)), tmp_path / "llama")
    longer = build_model_config(replace(rotary, num_positions=30), TOKENIZER)
    assert not lacks_positions(longer, 30)
    assert longer.max_position_embeddings == 30
    assert _build(replace(rotary, num_positions=30), num_positions=30).config.max_position_embeddings == 30
    with pytest.raises(UserError, match="30 positions, the model has 8"):
        _build(rotary, num_positions=30)


def test_a_table_that_is_not_known_is_not_touched(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 1}
    opt = OPTConfig(vocab_size=32, num_attention_heads=2, max_position_embeddings=8, **sizes)
    config = build_model_config(_saved(OPTForCausalLM(opt), tmp_path / "opt"), TOKENIZER)
    with pytest.raises(UserError, match=r"model.num_positions \(20\): the positions of opt cannot be extended"):
        lacks_positions(config, 20)


def test_a_checkpoint_that_lacks_weights_is_refused(gpt2: ModelConfig) -> None:
    path = Path(gpt2.name_or_path) / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights, such as transformer.h.0.mlp.c_fc.weight"):
        _build(gpt2)


def test_a_longer_table_does_not_hide_weights_that_are_missing(gpt2: ModelConfig, tmp_path: Path) -> None:
    path = Path(gpt2.name_or_path) / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights"):
        write_extended(gpt2.name_or_path, 19, tmp_path / "longer")
    assert not (tmp_path / "longer").exists()


def test_fewer_positions_than_the_models_own_change_nothing(tmp_path: Path) -> None:
    rotary = _saved(LlamaForCausalLM(LlamaConfig(**LLAMA)), tmp_path / "llama")
    assert build_model_config(replace(rotary, num_positions=5), TOKENIZER).max_position_embeddings == 8


def test_a_model_that_scales_positions_by_its_limit_keeps_it(tmp_path: Path) -> None:
    scaled = LlamaConfig(**LLAMA, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    config = _saved(LlamaForCausalLM(scaled), tmp_path / "llama")
    with pytest.raises(UserError, match=r"scales its positions by the limit \(dynamic\)"):
        build_model_config(replace(config, num_positions=30), TOKENIZER)


def test_a_base_that_is_stored_quantised_is_refused(gpt2: ModelConfig) -> None:
    path = Path(gpt2.name_or_path) / "config.json"
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": stored}))
    with pytest.raises(UserError, match="is stored quantised"):
        build_model_config(gpt2, TOKENIZER)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_a_model_that_sees_what_it_is_to_write_is_refused(model_type: str, tmp_path: Path) -> None:
    fields = {"model_type": model_type, "hidden_size": 16, "num_attention_heads": 2}
    with pytest.raises(UserError, match=rf"model.from_scratch: {model_type} sees the tokens behind .* in it"):
        build_model_config(ModelConfig(from_scratch=fields), TOKENIZER)
    config = build_model_config(ModelConfig(from_scratch={**fields, "is_decoder": True}), TOKENIZER)
    config.save_pretrained(tmp_path)
    build_model_config(ModelConfig(str(tmp_path)), TOKENIZER)
    config.is_decoder = False
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model.name_or_path \(.* sees the tokens behind .* in its config.json"):
        build_model_config(ModelConfig(str(tmp_path)), TOKENIZER)


@pytest.mark.parametrize("damage", ["truncated", "other shape"])
def test_damaged_weights_are_told_in_one_line(gpt2: ModelConfig, damage: str) -> None:
    path = Path(gpt2.name_or_path) / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        weights = load_file(path)
        weights["transformer.ln_f.weight"] = torch.ones(3)
        save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="the model cannot be loaded") as error:
        _build(gpt2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "lora", [{"targets": ["lm_head"]}, {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}]
)
def test_neither_side_of_a_tie_can_be_adapted(tmp_path: Path, lora: dict[str, list[str]]) -> None:
    tied = _saved(LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=True)), tmp_path / "tied")
    with pytest.raises(UserError, match="ties its output head to its embedding"):
        _build(tied, LoraConfig(rank=2, **lora))
    untied = _saved(LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=False)), tmp_path / "untied")
    _build(untied, LoraConfig(rank=2, **lora))


def test_checkpointing_is_on_when_asked_for(gpt2: ModelConfig) -> None:
    assert _build(replace(gpt2, gradient_checkpointing=True)).is_activation_checkpointing
    assert not _build(gpt2).is_activation_checkpointing


def test_adapters_begin_as_the_identity_and_freeze_the_rest(gpt2: ModelConfig) -> None:
    plain, adapted = _build(gpt2).eval(), _build(gpt2, LoraConfig(rank=2)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, adapted(ids).logits)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)


def test_named_targets_and_modules_are_the_ones_trained(tmp_path: Path) -> None:
    config = _saved(LlamaForCausalLM(LlamaConfig(**LLAMA)), tmp_path / "llama")
    lora = LoraConfig(rank=2, alpha=6, dropout=0.5, targets=["q_proj"], modules_to_save=["lm_head"])
    model = _build(config, lora)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.split(".")[-2] if "lora" not in name else name.split(".")[-4] for name in trained} == {
        "q_proj",
        "default",
    }
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 3.0 and layer.lora_dropout["default"].p == 0.5
    assert any("lm_head.modules_to_save" in name for name in trained)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(rank=2, targets=["nowhere"]), "lora.targets"),
        (LoraConfig(rank=2, modules_to_save=["nowhere"]), "lora.modules_to_save"),
    ],
)
def test_layers_that_are_not_there(gpt2: ModelConfig, lora: LoraConfig, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        _build(gpt2, lora)
    assert "nowhere" in str(error.value)


def test_a_folder_of_adapters_is_no_base(gpt2: ModelConfig, tmp_path: Path) -> None:
    _build(gpt2, LoraConfig(rank=2)).save_pretrained(tmp_path / "adapters")
    with pytest.raises(UserError, match="holds adapters, not a model; merge them with `tacit export`"):
        build_model_config(ModelConfig(str(tmp_path / "adapters")), TOKENIZER)


def test_adapters_whose_base_has_gone(gpt2: ModelConfig, tmp_path: Path) -> None:
    from pipeline.answer_spec import AnswerSpec
    from pipeline.config import FormatConfig

    adapters = tmp_path / "adapters"
    _build(gpt2, LoraConfig(rank=2)).save_pretrained(adapters)
    AnswerSpec(FormatConfig(), 0, False, "left", "token", False, 5).save(adapters)
    TOKENIZER.save_pretrained(adapters)
    load_for_inference(adapters)
    GPT2LMHeadModel(GPT2Config(**{**GPT2, "n_embd": 32})).save_pretrained(tmp_path / "wider")
    with pytest.raises(UserError, match="do not fit their base"):
        load_adapted(adapters, base=str(tmp_path / "wider"))
    path = adapters / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="is another model than the adapters were trained on"):
        load_for_inference(adapters)
    Path(gpt2.name_or_path).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="base of the adapters .* the model cannot be loaded"):
        load_for_inference(adapters)
    (adapters / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="the adapters cannot be read"):
        load_for_inference(adapters)


def test_quantisation_is_what_qlora_describes() -> None:
    nf4, int8 = (quantization_config(kind, torch.bfloat16) for kind in ("nf4", "int8"))
    assert nf4.load_in_4bit and nf4.bnb_4bit_quant_type == "nf4" and nf4.bnb_4bit_use_double_quant
    assert nf4.bnb_4bit_compute_dtype == torch.bfloat16
    assert int8.load_in_8bit
    assert quantization_config("none", torch.bfloat16) is None
