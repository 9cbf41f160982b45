"""Makes of a run one plain Hugging Face folder: adapters merged, parts put together, every tensor checked.

The weights are safetensors. The folder needs neither peft nor DeepSpeed nor this package to be loaded.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from pipeline.answer_spec import FILE_NAME, AnswerSpec, load_spec
from pipeline.checkpoint import MANIFEST
from pipeline.errors import UserError
from pipeline.model_card import model_card
from pipeline.model_folder import write_consolidated
from pipeline.modeling.lora import ADAPTER_CONFIG, adapter_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROBE_LENGTH = 8  # tokens of the row on which the written model must compute what the one in memory did


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    output: Path
    num_parameters: int
    num_tensors: int
    """Tensors in the files, each checked for its shape; tied ones are stored once."""
    dtype: str
    merged_adapters: bool


def find_source(path: Path, stage: int | None = None, step: int | None = None) -> Path:
    """Return the model folder or checkpoint that is meant.

    Args:
        path: A run directory, a model folder or a checkpoint.
        stage: In a run, the kept stage with so many removed units.
        step: In a run, the checkpoint after so many optimizer steps.

    Raises:
        UserError: If it is not there; says what is.
    """
    if stage is None and step is None:
        found = path / "model" if (path / "recipe.yaml").is_file() else path
        wanted = "no model and no checkpoint; give a run directory or one of their folders"
    elif stage is not None:
        found = path / "stages" / f"removed_{stage:04d}"
        wanted = f"no stage {stage}; run.keep_stages says which are kept"
    else:
        found, wanted = path / "checkpoints" / f"step_{step:08d}", f"no checkpoint of step {step}; take another"
    if any((found / name).is_file() for name in (FILE_NAME, MANIFEST)):
        return found
    siblings = [] if stage is None and step is None else sorted(entry.name for entry in found.parent.glob("[!.]*"))
    there = f" (there are {', '.join(siblings)})" if siblings else ""
    raise UserError(f"{path}: holds {wanted}{there}.")


def export_model(
    source: Path, output: Path, *, base: str | None = None, dtype: str | None = None, overwrite: bool = False
) -> ExportReport:
    """Write a plain model folder, check every tensor's shape against the architecture, and load it again.

    Args:
        source: A model folder of a run, or one of its checkpoints.
        output: Must not exist yet, unless ``overwrite``.
        base: Where the base of adapters lies now, if not where they say.
        dtype: A name of ``DTYPES``; None takes the one that was trained in. The base of adapters is loaded in it, a
            4-bit base too: adapters merged into 4 bits would be rounded away.
        overwrite: Replace ``output``.

    Raises:
        UserError: If there is nothing to export, or output would be lost.
    """
    if output.exists() and not overwrite:
        raise UserError(f"--output ({output}) exists; name another folder, or add --overwrite.")
    with tempfile.TemporaryDirectory(dir=_existing_parent(output), prefix=".export-") as temporary:
        folder = source
        if (source / MANIFEST).is_file():
            folder = Path(temporary) / "consolidated"
            write_consolidated(source, folder)
        spec = load_spec(folder)
        merges = (folder / ADAPTER_CONFIG).is_file()
        model = _merged(folder, base, dtype) if merges else _plain(folder, dtype)
        written = Path(temporary) / "written"
        num_tensors = _write(written, model, folder, spec)
        expected = _probe(model)
        report = ExportReport(
            output, model.num_parameters(), num_tensors, str(model.dtype).removeprefix("torch."), merges
        )
        del model  # a large one does not fit in memory twice
        _check_reload(written, expected)
        shutil.rmtree(output, ignore_errors=True)
        shutil.move(written, output)
    return report


def _existing_parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output ({path}): cannot be made ({error.strerror}); name another folder.") from error
    return path.parent


def _plain(folder: Path, dtype: str | None) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype] if dtype else "auto").eval()


def _merged(folder: Path, base: str | None, dtype: str | None) -> PreTrainedModel:
    """Return the base, as it is before quantisation, with the adapters added to its weights."""
    name = base or json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=DTYPES[dtype] if dtype else adapter_dtype(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: its base {name} could not be loaded; say with --base where it lies now.") from error
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    merged.generation_config = GenerationConfig.from_pretrained(folder)  # as trained, not as the base had it
    return merged.eval()


def _write(folder: Path, model: PreTrainedModel, source: Path, spec: AnswerSpec) -> int:
    """Write all files; return the number of tensors, each of which has the architecture's shape."""
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    spec = replace(spec, base_quantization="none")
    spec.save(folder)
    (folder / "README.md").write_text(model_card(spec, model.config), encoding="utf-8")
    with torch.device("meta"):
        architecture = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    expected = {name: tuple(tensor.shape) for name, tensor in architecture.state_dict().items()}
    found = dict(_shapes(folder))
    wrong = {name: shape for name, shape in found.items() if expected.get(name) != shape}
    missing = expected.keys() - found.keys() - set(architecture.all_tied_weights_keys)
    assert not wrong and not missing, f"wrong shapes {wrong}, missing {sorted(missing)}"
    return len(found)


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dictionary)
                yield name, tuple(file.get_slice(name).get_shape())


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> torch.Tensor:
    input_ids = torch.arange(PROBE_LENGTH)[None] % model.config.vocab_size
    return model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits


def _check_reload(folder: Path, expected: torch.Tensor) -> None:
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    difference = float((_probe(model.eval()) - expected).abs().max())
    assert difference == 0.0, f"the written model's logits differ by {difference}"
