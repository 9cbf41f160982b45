"""Models on disk: Hugging Face folders that also say how the model is to be asked."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from pipeline.answer_spec import AnswerSpec, load_spec
from pipeline.engine import Engine, consolidated_weights
from pipeline.manifest import incomplete, put_in_place, writing
from pipeline.modeling.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pipeline.ranks import on_rank_zero, rank

DESCRIPTION = "model"  # folder of a checkpoint: all of the model's own folder but the weights


def save_model(
    folder: Path, engine: Engine, tokenizer: PreTrainedTokenizerBase, spec: AnswerSpec, question_length: int | None
) -> None:
    """Write weights, or adapters alone, tokenizer and ``tacit.json`` as a Hugging Face folder, replacing an older one.

    Every rank takes part.

    Args:
        folder: Replaced as a whole, by a rename.
        engine: Holds the weights.
        tokenizer: Saved beside them.
        spec: How the model is to be asked.
        question_length: Tokens of every question, or None where they differ. With it, and a learned position table,
            kept positions are built into the weights, so that plain ``generate()`` answers as our evaluation does.

    Raises:
        RunError: On every rank, if the folder cannot be written; an older one is as it was.
    """
    weights = engine.gathered_weights()
    config, has_adapters = engine.model.config, engine.has_adapters
    if rank() == 0 and spec.shift and question_length is not None and config.model_type == "gpt2" and not has_adapters:
        config = _drop_positions(weights, config, question_length, spec.shift)
        spec = replace(spec, keep_positions=False, built_in_shift=spec.shift, question_length=question_length)

    def write() -> None:
        with writing(folder):
            temporary = incomplete(folder)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            engine.model.save_pretrained(temporary, state_dict=weights)
            if not has_adapters:  # adapters name their base, which has its own
                config.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            spec.save(temporary)
            put_in_place(folder)

    on_rank_zero(write)


def save_description(folder: Path, engine: Engine, tokenizer: PreTrainedTokenizerBase, spec: AnswerSpec) -> None:
    """Write all of a model's folder but the weights, which a checkpoint holds in parts. For rank 0 alone."""
    folder.mkdir(parents=True)
    if engine.has_adapters:
        engine.model.peft_config["default"].save_pretrained(folder)
    else:
        engine.model.config.save_pretrained(folder)
    engine.model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    spec.save(folder)


def write_consolidated(checkpoint: Path, folder: Path, trust_remote_code: bool = False) -> None:
    """Put the weights of a checkpoint together, in one process, whatever ranks and ZeRO stage wrote it.

    Args:
        checkpoint: Of a run; holds a description beside the engine's state.
        folder: Made; gets a model, or adapters, as ``save_model`` writes them.
        trust_remote_code: Run Python code that comes with the model.
    """
    shutil.copytree(checkpoint / DESCRIPTION, folder)
    has_adapters = (folder / ADAPTER_CONFIG).is_file()
    weights = consolidated_weights(checkpoint, has_adapters)
    if has_adapters:
        dtype = load_spec(folder).torch_dtype  # of a 4-bit base, its quantisation's own tensors are saved as well
        adapters = {
            _adapter_name(name): weight.to(dtype).contiguous()
            for name, weight in weights.items()
            if "lora_" in name or "modules_to_save" in name
        }
        save_file(adapters, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        return
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    model.save_pretrained(folder, state_dict={name: weight.to(config.dtype) for name, weight in weights.items()})


def _adapter_name(name: str) -> str:
    """Return the name that peft saves a weight of the adapter called ``default`` under."""
    name = name.replace("modules_to_save.default.", "").replace(".default.", ".").removesuffix(".default")
    return f"base_model.model.{name}"


def _drop_positions(weights: dict[str, torch.Tensor], config: Any, begin: int, number: int) -> Any:
    """Cut ``number`` rows from ``begin`` on out of GPT-2's position table; positions behind them close up."""
    name = "transformer.wpe.weight"
    weights[name] = torch.cat([weights[name][:begin], weights[name][begin + number :]])
    shorter = config.__class__.from_dict(config.to_dict())
    shorter.n_positions = config.n_positions - number
    return shorter
