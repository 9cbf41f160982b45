"""`tacit train --rehearse` and `tacit export` as a user calls them."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.cli.main import main
from pipeline.export import export_model
from pipeline.word_tokenizer import build_word_tokenizer
from tests.forked import tacit
from tests.tiny import variables_of_ranks, write_recipe


def test_a_rehearsal_goes_through_everything_and_leaves_the_run_alone(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        engine__deepspeed="ds_configs/zero3.json",
        engine__precision="bf16",
        run__output_dir=f"{tmp_path}/run/",
    )
    done = tacit("train", "--config", str(recipe), "--rehearse", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["num_removed"] == 4
    # Stage 0 is held for a step and then counts one, as do the three after it; the last has two.
    assert result["num_steps"] == 1 + 1 + 3 + 2
    folder = tmp_path / "run_rehearsal"
    assert json.loads((folder / "environment.json").read_text())["world_size"] == 2
    assert (folder / "exported" / "model.safetensors").exists()
    assert "resumed at step 7" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_mistake_ends_all_ranks_of_a_rehearsal(tmp_path: Path) -> None:
    tokenizer = build_word_tokenizer()
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)).save_pretrained(
        tmp_path / "base"
    )
    model = {"name_or_path": str(tmp_path / "base"), "tokenizer": "words"}
    recipe = write_recipe(tmp_path, model=model, lora={"rank": 4, "targets": ["no_such_layer"]})
    begin = time.monotonic()
    failed = tacit("train", "--config", str(recipe), "--rehearse")
    assert time.monotonic() - begin < 60
    assert failed.returncode == 2
    assert failed.stderr.count("tacit: error:") == 1 and "lora.targets" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_rows_too_long_for_the_real_model_are_found_though_the_tiny_run_has_few_rows(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.writelines(f"1 {i % 10} * 2 {i // 10}||{'1 ' * 60}#### 3\n" for i in range(20))
    (alone,) = variables_of_ranks(1)
    failed = tacit("train", "--config", recipe, "--rehearse", "--engine.micro_batch_tokens", 500, **alone)
    assert failed.returncode == 2
    assert "positions" in failed.stderr and failed.stderr.count("tacit: error:") == 1


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of one rank with a kept stage and checkpoints."""
    folder = tmp_path_factory.mktemp("exported_run")
    assert main(["train", "--config", str(write_recipe(folder, run__keep_stages=[0], evaluation__every_stages=1))]) == 0
    return folder / "run"


def test_export_of_a_run_a_stage_and_a_checkpoint(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, options in {"run": [], "stage": ["--stage", "0"], "step": ["--step", "14"]}.items():
        assert main(["export", str(run_dir), "--output", str(tmp_path / name), "--json", *options]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["merged_adapters"] is False and report["num_parameters"] > 1000
    removed = {
        name: json.loads((tmp_path / name / "tacit.json").read_text())["num_removed"] for name in ("run", "stage")
    }
    assert removed == {"run": 4, "stage": 0}
    assert "arXiv:2405.14838" in (tmp_path / "run" / "README.md").read_text()


def test_an_export_in_another_type_is_half_as_large(run_dir: Path, tmp_path: Path) -> None:
    assert main(["export", str(run_dir), "--output", str(tmp_path / "a")]) == 0
    assert main(["export", str(run_dir), "--output", str(tmp_path / "b"), "--dtype", "bfloat16"]) == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in "ab"]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{tmp}"], "holds no model and no checkpoint"),
        (["{run}", "--stage", "3"], "holds no stage 3"),
        (["{run}", "--step", "999"], "(there are step_"),
        (["{run}", "--stage", "0", "--step", "3"], "exclude each other"),
        (["{run}", "--base", "{tmp}"], "--base ({tmp}): {run}/model has no adapters"),
        (["{run}", "--dtype", "int3"], "--dtype (int3) must be one of"),
        (["{run}", "--outptu", "x"], "Did you mean --output?"),
    ],
)
def test_wrong_exports(
    run_dir: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [option.format(tmp=tmp_path, run=run_dir) for option in options]
    assert main(["export", *filled, "--output", str(tmp_path / "out")]) == 2
    assert message.format(tmp=tmp_path, run=run_dir) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_nothing_unasked(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    export = ["export", str(run_dir), "--output"]
    assert main([*export, str(output)]) == 0
    assert main([*export, str(output)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    before = (output / "model.safetensors").stat().st_mtime_ns
    assert main([*export, str(output), "--overwrite"]) == 0
    assert (output / "model.safetensors").stat().st_mtime_ns > before
    # What is not an earlier export is never replaced, the run itself least of all.
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").touch()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(output)
    for other in (
        tmp_path / "folder",
        tmp_path / "file",
        tmp_path / "link",
        run_dir,
        run_dir / "model",
        run_dir.parent,
    ):
        assert main([*export, str(other), "--overwrite"]) == 2
        assert "is not an earlier export" in capsys.readouterr().err
    assert (tmp_path / "folder" / "precious").exists() and (run_dir / "metrics.jsonl").exists()
    assert main([*export, str(tmp_path / "file" / "x")]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_exported(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "step_00000014"
    shutil.copytree(run_dir / "checkpoints" / "step_00000014", damaged)
    path = next((damaged / "engine").glob("*.pt"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert main(["export", str(damaged), "--output", str(tmp_path / "out")]) == 2
    assert "has other content than when it was saved" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_not_exported(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diverged = tmp_path / "diverged"
    shutil.copytree(run_dir / "model", diverged)
    weights = load_file(diverged / "model.safetensors")
    weights["transformer.ln_f.weight"][:] = torch.nan
    save_file(weights, diverged / "model.safetensors", metadata={"format": "pt"})
    assert main(["export", str(diverged), "--output", str(tmp_path / "out")]) == 2
    assert "not finite" in capsys.readouterr().err


def test_a_wrong_file_is_seen_before_it_is_put_in_place(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = GPT2LMHeadModel.save_pretrained

    def cut(model: GPT2LMHeadModel, folder: Path) -> None:
        whole(model, folder)
        path = folder / "model.safetensors"
        weights = load_file(path)
        weights["transformer.ln_f.bias"] = weights["transformer.ln_f.bias"][:3].clone()
        save_file(weights, path, metadata={"format": "pt"})

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", cut)
    with pytest.raises(AssertionError, match="wrong shapes .*ln_f.bias"):
        export_model(run_dir / "model", tmp_path / "out")

    def drift(model: GPT2LMHeadModel, folder: Path) -> None:
        whole(model, folder)
        path = folder / "model.safetensors"
        weights = load_file(path)
        weights["transformer.ln_f.bias"] += 1e-3
        save_file(weights, path, metadata={"format": "pt"})

    monkeypatch.setattr(GPT2LMHeadModel, "save_pretrained", drift)
    with pytest.raises(AssertionError, match="computes something else"):
        export_model(run_dir / "model", tmp_path / "out")
    assert not (tmp_path / "out").exists()
