"""Makes of a run one plain Hugging Face folder: adapters merged, parts put together, every tensor checked.

The weights are safetensors. The folder needs neither peft nor DeepSpeed nor this package to be loaded.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from pipeline.answer_spec import FILE_NAME, AnswerSpec, load_spec
from pipeline.errors import UserError
from pipeline.manifest import MANIFEST, fault_of
from pipeline.model_card import FRONTIER_PICTURE, model_card
from pipeline.model_folder import DESCRIPTION, write_consolidated
from pipeline.modeling.pretrained import load_pretrained
from pipeline.modeling.saved import has_adapters, load_adapted, load_tokenizer
from pipeline.provenance import provenance_of
from pipeline.report import draw_frontier
from pipeline.stage_registry import stage_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MERGE_TOLERANCE = 0.1  # of the largest logit: bf16 rounds the merged weights; a wrong merge is far off
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
        is_run = (path / "recipe.yaml").is_file()
        found = path / "model" if is_run else path
        wanted = (
            "no model yet; --step exports a checkpoint"
            if is_run
            else "no model and no checkpoint; give a run directory or one of their folders"
        )
    elif stage is not None:
        found = stage_folder(path, stage)
        wanted = f"no stage {stage}; run.keep_stages says which are kept"
    else:
        found, wanted = path / "checkpoints" / f"step_{step:08d}", f"no checkpoint of step {step}; take another"
    if any((found / name).is_file() for name in (FILE_NAME, MANIFEST)):
        return found
    siblings = (
        []
        if stage is None and step is None
        else sorted(entry.name for entry in found.parent.glob("[!.]*") if not entry.is_symlink())
    )
    there = f" (there are {', '.join(siblings)})" if siblings else ""
    raise UserError(f"{path}: holds {wanted}{there}.")


def export_model(
    source: Path,
    output: Path,
    *,
    base: str | None = None,
    dtype: str | None = None,
    license_name: str = "",
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> ExportReport:
    """Write a plain model folder, check every tensor's shape against the architecture, and load it again.

    Args:
        source: A model folder of a run, or one of its checkpoints.
        output: Must not exist yet, unless ``overwrite``.
        base: Where the base of adapters lies now, if not where they say.
        dtype: A name of ``DTYPES``; None takes the one that was trained in. The base of adapters is loaded in it, a
            4-bit base too: adapters merged into 4 bits would be rounded away.
        license_name: For the model card; empty takes the base's, where that is known.
        overwrite: Replace ``output``, if it is an earlier export.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        UserError: If there is nothing to export, something else would be lost, or weights are damaged or not finite.
    """
    _check_output(source, output, overwrite)
    with tempfile.TemporaryDirectory(dir=_made_parent(output), prefix=".export-") as temporary:
        folder = source
        if (source / MANIFEST).is_file():
            _check_whole(source)
            folder = Path(temporary) / "consolidated"
            write_consolidated(source, folder, trust_remote_code)
        spec = load_spec(folder)
        settings = {"dtype": DTYPES[dtype] if dtype else "auto", "trust_remote_code": trust_remote_code}
        merges = has_adapters(folder)
        if base is not None and not merges:
            raise UserError(f"--base ({base}): {source} has no adapters to put on it; leave it out.")
        if merges:
            model = _merged(folder, base, **{**settings, "dtype": DTYPES[dtype] if dtype else spec.torch_dtype})
        else:
            model = load_pretrained(str(folder), "model folder", **settings).eval()
        expected = _probe(model)
        if not expected.isfinite().all():
            raise UserError(f"{source}: its logits are not finite; the training has diverged, take an earlier step.")
        written = Path(temporary) / "written"
        num_tensors = _write(written, model, folder, spec, trust_remote_code)
        origin = provenance_of(source, spec)
        card = model_card(spec, model.config, origin, output.name, license_name or origin.license)
        (written / "README.md").write_text(card, encoding="utf-8")
        if origin.frontier is not None:
            draw_frontier(origin.frontier, written / FRONTIER_PICTURE)
        report = ExportReport(
            output, model.num_parameters(), num_tensors, str(model.dtype).removeprefix("torch."), merges
        )
        del model  # a large one does not fit in memory twice
        reloaded = load_pretrained(str(written), "exported folder", dtype="auto", trust_remote_code=trust_remote_code)
        assert torch.equal(_probe(reloaded.eval()), expected), "the written model computes something else"
        _put_in_place(written, output)
    return report


def _check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Refuse an output that exists, or that is more than an earlier export."""
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise UserError(f"--output ({output}) exists; name another folder, or add --overwrite.")
    ours, theirs = output.resolve(), source.resolve()
    holds_source = ours == theirs or ours in theirs.parents or theirs in ours.parents
    is_export = (output / FILE_NAME).is_file() and (output / "README.md").is_file() and not output.is_symlink()
    if holds_source or not is_export or output.is_mount():
        raise UserError(f"--output ({output}) is not an earlier export, and is not replaced; name another folder.")


def _made_parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()  # whether it can be written to
    except OSError as error:
        raise UserError(f"--output ({path}): cannot be made ({error.strerror}); name another folder.") from error
    return path.parent


def _put_in_place(written: Path, output: Path) -> None:
    if output.exists():
        output.rename(written.with_name("replaced"))  # goes with the temporary folder
    written.rename(output)


def _check_whole(checkpoint: Path) -> None:
    if fault := fault_of(checkpoint, must_list=f"{DESCRIPTION}/{FILE_NAME}"):
        raise UserError(f"{checkpoint} cannot be exported ({fault}); take another checkpoint.")


def _merged(folder: Path, base: str | None, **settings: Any) -> PreTrainedModel:
    """Return the base, as it is before quantisation, with the adapters added to its weights."""
    adapted = load_adapted(folder, base, **settings).eval()
    before = _probe(adapted)
    merged = adapted.merge_and_unload(safe_merge=True)
    difference = (_probe(merged) - before).abs().max()
    assert not difference > MERGE_TOLERANCE * before.abs().max(), f"merging changes the logits by {difference}"
    merged.generation_config = GenerationConfig.from_pretrained(folder)  # as trained, not as the base had it
    return merged


def _write(folder: Path, model: PreTrainedModel, source: Path, spec: AnswerSpec, trust_remote_code: bool) -> int:
    """Write all files but the card; return the number of tensors, each of which has the architecture's shape."""
    model.save_pretrained(folder)
    load_tokenizer(source, trust_remote_code).save_pretrained(folder)
    spec = replace(spec, base_quantization="none")
    spec.save(folder)
    with torch.device("meta"):
        architecture = AutoModelForCausalLM.from_config(model.config, trust_remote_code=trust_remote_code)
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
