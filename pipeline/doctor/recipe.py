"""A recipe on this machine: are its settings sound, and is what it names there?"""

import os
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from pipeline.config import Config, DataConfig, load_config
from pipeline.doctor.finding import Finding, faults_of, reason_of
from pipeline.ds_config import check_suits_quantization, load_ds_config
from pipeline.errors import UserError
from pipeline.modeling import build_model_config, build_tokenizer
from pipeline.preparation import check_model_path
from pipeline.records import read_records
from pipeline.records.readers import BadRow, is_on_hub

ROWS_TRIED = 1000
HUB_SECONDS = 5
WEIGHTS = ("*.safetensors", "*.bin")


def read_recipe(*paths: Path) -> tuple[Config | None, list[Finding]]:
    """Read and check a recipe of one file or several; a faulty one is None and its faults."""
    named = ", ".join(map(str, paths))
    try:
        return load_config(*paths), [Finding("recipe", "ok", f"{named}: every setting is sound")]
    except UserError as error:
        return None, faults_of("recipe", str(error))
    except Exception as error:  # nothing that stands in a file may end the examination
        return None, [Finding("recipe", "fault", f"{named}: {reason_of(error)}", "correct it")]


def check_ds_config(config: Config) -> list[Finding]:
    """Read the DeepSpeed JSON that a recipe names."""
    try:
        zero = load_ds_config(config.engine).get("zero_optimization", {})
        check_suits_quantization(config.engine, config.model.quantization)
    except UserError as error:
        return faults_of("DeepSpeed JSON", str(error))
    offloaded = [
        f"{name.removeprefix('offload_')} on {zero[name]['device']}"
        for name in ("offload_optimizer", "offload_param")
        if zero.get(name, {}).get("device", "none") != "none"
    ]
    found = ", ".join([f"{config.engine.deepspeed}: ZeRO-{zero.get('stage', 0)}", *offloaded])
    return [Finding("DeepSpeed JSON", "ok", found)]


def check_model(config: Config) -> list[Finding]:
    """Look for the model and tokenizer that a recipe names; weights are not loaded."""
    model = config.model
    folder = Path(model.name_or_path)
    try:
        check_model_path(model.name_or_path)
        if model.name_or_path and not folder.is_dir():
            return [check_hub("model", "model.name_or_path", model.name_or_path)]
        tokenizer = build_tokenizer(model)
        model_type = build_model_config(model, tokenizer).model_type
    except UserError as error:
        return faults_of("model", str(error))
    if model.from_scratch is not None:
        return [Finding("model", "ok", f"{model_type} from scratch, {len(tokenizer)} tokens")]
    files = [file for pattern in WEIGHTS for file in folder.glob(pattern)]
    if not files:
        remedy = "copy the whole model, its .safetensors files too"
        return [Finding("model", "fault", f"model.name_or_path ({folder}) holds no weights", remedy)]
    size = sum(file.stat().st_size for file in files)
    return [Finding("model", "ok", f"{folder}: {model_type}, {size / 1e9:.2f} GB of weights")]


def check_data(data: DataConfig) -> list[Finding]:
    """Read the first rows of both sources that are files; ask the Hub for those that are not."""
    return [
        _check_source(data, field, source)
        for field, source in (("data.train", data.train), ("data.validation", data.validation))
    ]


def _check_source(data: DataConfig, field: str, source: str) -> Finding:
    if is_on_hub(source, data.source_format):
        return check_hub("dataset", field, source.partition(":")[0])
    bad_rows: list[BadRow] = []
    try:
        records = read_records(
            source,
            source_format=data.source_format,
            columns=asdict(data.columns),
            on_bad_row=data.on_bad_row,
            bad_rows=bad_rows,
        )
        num_good = sum(1 for _ in islice(records, ROWS_TRIED))
    except UserError as error:
        return faults_of("data", f"{field}: {error}")[0]
    rows = f"the first {num_good:,} rows read" if num_good == ROWS_TRIED else f"{num_good:,} rows"
    skipped = f", {len(bad_rows)} broken ones skipped" if bad_rows else ""
    return Finding("data", "ok", f"{field}: {source}: {rows}{skipped}")


def check_hub(kind: str, field: str, name: str) -> Finding:
    """Ask the Hub for a name that is no folder or file here, unless it was fetched before.

    Args:
        kind: ``model`` or ``dataset``.
        field: The recipe's setting.
        name: ``owner/name``.
    """
    if kind == "model" and isinstance(try_to_load_from_cache(name, "config.json"), str):
        return Finding(kind, "ok", f"{field} ({name}): in the Hub's cache here")
    here = f"{field} ({name}): not here, and the Hub"
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        remedy = "fetch it beforehand, name a folder, or unset HF_HUB_OFFLINE"
        return Finding(kind, "fault", f"{here} is not to be asked (HF_HUB_OFFLINE)", remedy)
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        remedy = "check the name; a gated one needs its terms accepted and HF_TOKEN set"
        return Finding(kind, "fault", f"{here} refuses it ({reason_of(error)})", remedy)
    except Exception as error:  # no network, no such name, a broken proxy: the library has no common error for them
        remedy = "check the path or name, and the network (HTTPS_PROXY); or fetch it elsewhere and name its folder"
        return Finding(kind, "fault", f"{here} does not answer ({reason_of(error)})", remedy)
    return Finding(kind, "ok", f"{field} ({name}): on the Hub")
