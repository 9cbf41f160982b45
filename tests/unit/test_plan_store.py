"""What a plan measured is asked of the disk the next time, and measured anew wherever it might be another."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config, DataConfig, LoraConfig
from pipeline.errors import UserError
from pipeline.plan import measuring, store
from pipeline.plan.from_data import planner_from_data
from pipeline.plan.from_lengths import planner_from_lengths
from pipeline.plan.memory import Memory
from pipeline.plan.plan import make_plan
from pipeline.plan.planner import Planner
from pipeline.plan.store import Store
from tests.tiny import ROOT, tiny_config

LENGTHS = "1000,20,10,4"
SHAPE = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": 200}


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by one for each model that is built."""
    names: list[str] = []
    build = measuring.build_fake_model

    def counted(model_config: Any, *arguments: Any) -> Any:
        names.append(model_config.model_type)
        return build(model_config, *arguments)

    monkeypatch.setattr(measuring, "build_fake_model", counted)
    store._measured_by.cache_clear()
    return names


def recipe(cache: Path | str, **model: Any) -> Config:
    config = Config(data=DataConfig(cache_dir=str(cache)))
    settings = {"from_scratch": SHAPE, "tokenizer": "words", **model}
    return replace(config, model=replace(config.model, **settings))


def planner(config: Config, lengths: str = LENGTHS) -> Planner:
    return planner_from_lengths(config, lengths)


def memory(config: Config, lengths: str = LENGTHS) -> dict[str, Memory]:
    return planner(config, lengths).memory(config, num_gpus=1)


def entries(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (cache / "plans").iterdir()}


# What stays the same


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_second_plan_is_the_first_and_builds_nothing(tmp_path: Path, built: list[str], quantization: str) -> None:
    config = recipe(tmp_path, quantization=quantization, from_scratch={**SHAPE, "n_layer": 5})
    config = replace(config, lora=LoraConfig(rank=4))
    first = make_plan(config, planner(config), num_gpus=1)
    assert built
    built.clear()
    kept = entries(tmp_path)
    assert make_plan(config, planner(config), num_gpus=1) == first
    assert built == [] and entries(tmp_path) == kept
    assert all(name.endswith(".json") for name in kept)  # nothing half written is left


def test_rows_are_read_and_nothing_is_measured_the_second_time(tmp_path: Path, built: list[str]) -> None:
    config = tiny_config(tmp_path)
    first, second = (make_plan(config, planner_from_data(config, None), num_gpus=2) for _ in range(2))
    assert first == second
    assert len(built) == len(set(built)) == 1  # GPT-2 of one layer


def test_what_fits_is_asked_without_building(tmp_path: Path, built: list[str]) -> None:
    memory(recipe(tmp_path))
    built.clear()
    with pytest.raises(UserError, match="longest row takes 74 positions, the model has 64"):
        memory(recipe(tmp_path), "1000,60,10,4")
    assert built == []


# What might be another


@pytest.mark.parametrize(
    ("change", "lengths"),
    [
        (lambda config: config, "1000,21,10,4"),
        (lambda config: config, "1000,19,11,4"),
        (lambda config: replace(config, model=replace(config.model, attention="eager")), LENGTHS),
        (lambda config: replace(config, model=replace(config.model, padding_free=False)), LENGTHS),
        (lambda config: replace(config, model=replace(config.model, gradient_checkpointing=True)), LENGTHS),
        (lambda config: replace(config, model=replace(config.model, num_positions=80)), LENGTHS),
        (lambda config: replace(config, model=replace(config.model, from_scratch={**SHAPE, "n_embd": 64})), LENGTHS),
        (lambda config: replace(config, lora=LoraConfig(rank=4)), LENGTHS),
        (lambda config: replace(config, engine=replace(config.engine, precision="fp32")), LENGTHS),
        (lambda config: replace(config, engine=replace(config.engine, micro_batch_tokens=68)), LENGTHS),
    ],
)
def test_a_change_is_measured(
    tmp_path: Path, built: list[str], change: Callable[[Config], Config], lengths: str
) -> None:
    start = recipe(tmp_path / "used")
    start = replace(start, engine=replace(start.engine, precision="bf16"))
    memory(start)
    built.clear()
    after_another = memory(change(start), lengths)
    assert built
    alone = replace(change(start), data=DataConfig(cache_dir=str(tmp_path / "fresh")))
    assert after_another == memory(alone, lengths)


def test_a_model_folder_is_known_by_what_is_in_it(tmp_path: Path, built: list[str]) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    config = recipe(cache, from_scratch=None, tokenizer="", name_or_path=str(folder))
    (folder / "config.json").write_text(json.dumps(SHAPE))
    small = planner(config).size(config)
    (folder / "config.json").write_text(json.dumps({**SHAPE, "n_layer": 2}))
    large = planner(config).size(config)
    assert large.num_weights - small.num_weights == 12 * 32**2 + 13 * 32  # one layer of GPT-2
    (folder / "config.json").write_text(json.dumps(SHAPE))
    built.clear()
    assert planner(config).size(config) == small and built == []
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="holds adapters, not a model"):
        planner(config)


@pytest.mark.parametrize("library", ["torch", "transformers", "peft"])
def test_another_version_measures_anew(
    tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    first = memory(recipe(tmp_path))
    built.clear()
    installed = store.version
    monkeypatch.setattr(store, "version", lambda name: "99.0" if name == library else installed(name))
    store._measured_by.cache_clear()
    assert memory(recipe(tmp_path)) == first
    assert built


def test_another_source_measures_anew(tmp_path: Path, built: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    (package / "modeling").mkdir(parents=True)
    source = package / "modeling" / "lora.py"
    monkeypatch.setattr(store, "PACKAGE", package)
    hits = []
    for text in ("RANK = 1\n", "RANK = 1\n", "RANK = 2\n"):
        source.write_text(text)
        store._measured_by.cache_clear()
        built.clear()
        memory(recipe(tmp_path))
        hits.append(not built)
    assert hits == [False, True, False]


def test_code_that_comes_with_a_model_is_measured_each_time(tmp_path: Path, built: list[str]) -> None:
    for _ in range(2):
        built.clear()
        memory(recipe(tmp_path, trust_remote_code=True))
        assert built
    assert not (tmp_path / "plans").exists()


# Faults of the disk


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\xff" + content,
        lambda content: b"[1, 2]",
        lambda content: b"{}",
        lambda content: content.replace(b"1", b"2"),
        lambda content: b"[" * 100_000,
    ],
    ids=["empty", "cut", "no text", "a list", "no fields", "other numbers", "deep"],
)
def test_a_damaged_entry_is_measured_anew(tmp_path: Path, built: list[str], damage: Callable[[bytes], bytes]) -> None:
    first, whole = memory(recipe(tmp_path)), entries(tmp_path)
    for name, content in whole.items():
        (tmp_path / "plans" / name).write_bytes(damage(content))
    built.clear()
    assert memory(recipe(tmp_path)) == first
    assert built and entries(tmp_path) == whole


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path: Path, built: list[str]) -> None:
    wanted = memory(recipe(tmp_path / "folder"))
    (tmp_path / "file").write_text("a file")
    for cache in (tmp_path / "file", tmp_path / "file" / "below", "~no such user/cache", "a\0b"):
        built.clear()
        assert memory(recipe(cache)) == wanted
        assert built
    assert (tmp_path / "file").read_text() == "a file"
    assert not Path("~no such user").exists()


def test_an_error_is_not_kept(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        Store(tmp_path).recall("key", fail)
    assert Store(tmp_path).recall("key", lambda: 3) == Store(tmp_path).recall("key", fail) == 3


def test_processes_that_write_the_same_at_once_do_no_harm(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from pipeline.plan.store import Store
for turn in range(20):
    for key in range(10):
        measured = list(range(100 * key))
        assert Store(Path({str(tmp_path)!r})).recall(key, lambda: measured) == measured
        if turn % 2:
            for path in Path({str(tmp_path)!r}).glob("*.json"):
                path.unlink(missing_ok=True)
"""
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".json")] == []
