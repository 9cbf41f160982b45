"""The examination of a machine: checks that really run here, and judgements on numbers that cannot be made here."""

import importlib.metadata
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement

from pipeline.config import DataConfig
from pipeline.decoding import Prompt
from pipeline.doctor import Finding, attention_trap, examine
from pipeline.doctor.attention_trap import TINY, check_attention, check_gap, decodes_alike, loss_error, tiny_model
from pipeline.doctor.finding import GIB, faults_of, run_check
from pipeline.doctor.hardware import (
    Gpu,
    check_disk,
    check_memory,
    check_open_files,
    check_threads,
    container_bytes,
    judge_devices,
    judge_disk,
    judge_memory,
    judge_open_files,
    judge_shared_memory,
    judge_threads,
    usable_cores,
)
from pipeline.doctor.recipe import check_data, check_ds_config, check_hub, check_model, read_recipe
from pipeline.doctor.software import PINS, check_compilers, check_packages, judge_compilers, judge_packages, read_pins
from pipeline.doctor.trials import check_bitsandbytes, check_communication, gloo_sums, judge_bitsandbytes
from pipeline.loss import token_loss_sum
from pipeline.word_tokenizer import build_word_tokenizer
from tests.tiny import ROOT, tiny_config, write_recipe


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_this_machine_is_fit() -> None:
    findings = examine()
    assert [finding for finding in findings if finding.state == "fault"] == []
    names = {finding.check for finding in findings}
    assert {"python", "packages", "devices", "communication", "attention", "position gaps", "bitsandbytes"} <= names
    assert {"compilers", "memory", "disk, runs", "shared memory", "open files", "threads"} <= names
    assert not names & {"recipe", "model", "data"}


# Checks that break


def test_a_check_that_raises_is_a_fault_with_its_reason() -> None:
    def look() -> list[Finding]:
        raise OSError("libcudart.so.13: cannot open\nmore lines")

    (finding,) = run_check("GPU", "reinstall it", look)
    assert finding == Finding("GPU", "fault", "OSError: libcudart.so.13: cannot open", "reinstall it")


def test_a_user_errors_lines_are_faults_with_their_remedies() -> None:
    message = "optim.lr (-1) must be above 0; raise it.\noptim.lrr: unknown setting. Did you mean optim.lr?"
    assert faults_of("recipe", message) == [
        Finding("recipe", "fault", "optim.lr (-1) must be above 0", "raise it."),
        Finding("recipe", "fault", "optim.lrr: unknown setting. Did you mean optim.lr?", ""),
    ]


# Packages and compilers


def test_packages_missing_or_too_old_are_faults_and_untested_ones_notes() -> None:
    needed = [Requirement(text) for text in ("torch>=2.13", "peft", "rich", "numpy")]
    pins = read_pins("# comment\ntorch==2.13.0\npeft==0.21.2  # why\nrich==15.0.0\nnumpy==2.4.6\n")
    assert [str(pin) for pin in pins] == ["torch==2.13.0", "peft==0.21.2", "rich==15.0.0", "numpy==2.4.6"]
    versions = {"torch": "2.12.1", "rich": "15.0.1", "numpy": "2.4.6"}
    overview, *others = judge_packages(needed, pins, versions)
    assert "as tested" not in overview.found
    assert {(finding.check, finding.state, finding.found) for finding in others} == {
        ("package torch", "fault", "2.12.1, not >=2.13"),
        ("package peft", "fault", "not installed"),
        ("package rich", "note", "15.0.1, not ==15.0.0, which was tested"),
    }
    assert all("pip install" in finding.remedy for finding in others)


def test_a_local_build_of_the_pinned_version_is_the_pinned_version() -> None:
    finding = only(judge_packages([], read_pins("torch==2.13.0"), {"torch": "2.13.0+cu130"}))
    assert (finding.state, finding.found) == ("ok", "every one as tested: torch 2.13.0+cu130")


def test_the_packages_here_are_read() -> None:
    assert PINS == ROOT / "requirements.txt"
    overview = check_packages()[0]
    assert f"torch {importlib.metadata.version('torch')}" in overview.found


def test_missing_compilers_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "g++" in only(check_compilers()).found
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(check_compilers())
    assert (finding.state, finding.found) == ("note", "none; no g++, no ninja, no nvcc")
    assert "install g++ and ninja" in finding.remedy
    assert judge_compilers({"g++": "12.2.0", "ninja": "1.13.2", "nvcc": None}).state == "ok"


# Devices


def judged(*gpus: Gpu, **facts: Any) -> list[Finding]:
    defaults = {
        "driver": None,
        "cuda_of_torch": "13.0",
        "hidden": False,
        "accelerator": None,
        "precision": None,
    }
    return judge_devices(gpus, **{**defaults, **facts})


@pytest.mark.parametrize(
    ("facts", "state", "remedy"),
    [
        ({"cuda_of_torch": None}, "ok", ""),
        ({}, "note", "--gpus all"),
        ({"driver": "580.65", "cuda_of_torch": None}, "fault", "CUDA build"),
        ({"driver": "470.10"}, "fault", "update the driver to one for CUDA 13.0"),
        ({"driver": "580.65", "hidden": True}, "note", "unset it"),
    ],
)
def test_where_pytorch_sees_no_gpu(facts: dict[str, Any], state: str, remedy: str) -> None:
    finding = only(judged(**facts))
    assert finding.state == state
    assert remedy in finding.remedy


def test_a_gpu_is_told_with_what_it_has() -> None:
    h100 = Gpu("NVIDIA H100", 78.5, 79.2, (9, 0), "")
    finding = only(judged(h100, driver="580.65", precision="bf16"))
    assert (finding.check, finding.state) == ("GPU 0", "ok")
    for part in ("NVIDIA H100", "78.5 of 79.2 GiB", "9.0", "bf16", "driver 580.65", "CUDA 13.0"):
        assert part in finding.found


def test_a_gpu_too_old_for_bf16_is_a_fault_where_the_recipe_asks_for_it() -> None:
    v100 = Gpu("V100", 15.0, 16.0, (7, 0), "")
    assert only(judged(v100)).state == "note"
    assert only(judged(v100, precision="fp32")).state == "note"
    finding = only(judged(v100, precision="bf16"))
    assert (finding.state, finding.remedy) == ("fault", "set engine.precision fp32")


def test_a_gpu_that_is_used_or_broken_or_kept_away_is_told() -> None:
    used, broken = Gpu("A", 10.0, 24.0, (8, 9), ""), Gpu("B", 24.0, 24.0, (12, 0), "no kernel image")
    findings = judged(used, broken, accelerator="cpu")
    assert [(finding.check, finding.state) for finding in findings] == [
        ("GPU 0", "note"),
        ("GPU 1", "fault"),
        ("devices", "note"),
    ]
    assert "no kernel image" in findings[1].found
    assert "DS_ACCELERATOR" in findings[2].found


# Memory, disk, shared memory, files, threads


def test_memory_is_what_host_and_container_leave() -> None:
    assert container_bytes("max\n") is None
    assert container_bytes("2147483648\n") == 2 * GIB
    assert judge_memory(64 * GIB, None).state == "ok"
    assert judge_memory(4 * GIB, None).state == "note"
    limited = judge_memory(64 * GIB, GIB)
    assert limited.state == "fault"
    assert "1.0 GiB available (the container's limit: 1.0)" in limited.found
    assert "GiB available" in only(check_memory()).found


def test_a_folder_yet_to_be_made_is_measured_and_one_under_a_file_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    good, bad = check_disk([("a", tmp_path / "runs" / "new"), ("b", tmp_path / "file" / "runs")])
    assert "GiB free" in good.found
    assert not (tmp_path / "runs").exists()
    assert (bad.state, bad.remedy) == ("fault", "name another folder, or change its owner")
    assert judge_disk("a", tmp_path, GIB // 2, True).state == "fault"
    assert judge_disk("a", tmp_path, 5 * GIB, True).state == "note"
    assert judge_disk("a", tmp_path, 50 * GIB, True).state == "ok"
    assert judge_disk("a", tmp_path, 50 * GIB, False).state == "fault"


@pytest.mark.parametrize(("num_gpus", "state"), [(0, "note"), (1, "note"), (2, "fault")])
def test_dockers_own_shared_memory_is_too_small_for_two_gpus(num_gpus: int, state: str) -> None:
    finding = judge_shared_memory(64 * 2**20, num_gpus)
    assert (finding.state, finding.found) == (state, "/dev/shm: 0.06 GiB")
    assert "--shm-size" in finding.remedy
    assert judge_shared_memory(16 * GIB, num_gpus).state == "ok"
    assert judge_shared_memory(0, num_gpus).found == "no /dev/shm"


def test_a_low_limit_of_open_files_is_noted() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        finding = only(check_open_files())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (finding.state, finding.found) == ("note", "512")
    assert "ulimit -n" in finding.remedy
    assert judge_open_files(1024).state == "ok"
    assert judge_open_files(resource.RLIM_INFINITY).found == "no limit"


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("", 8), ("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000", 1)]
)
def test_a_containers_share_of_the_cores_counts(cpu_max: str, cores: int) -> None:
    assert usable_cores(8, cpu_max) == cores


@pytest.mark.parametrize(
    ("threads", "num_ranks", "has_gpu", "remedy"),
    [
        (8, 1, False, ""),
        (8, 4, False, "OMP_NUM_THREADS=2"),
        (2, 4, False, ""),
        (1, 1, False, "OMP_NUM_THREADS=8"),
        (1, 1, True, ""),  # the GPU works, the CPU feeds it
        (16, 1, True, "OMP_NUM_THREADS=8"),
        (1, 16, False, ""),
    ],
)
def test_threads_are_held_against_cores(threads: int, num_ranks: int, has_gpu: bool, remedy: str) -> None:
    finding = judge_threads(threads, num_ranks, 8, has_gpu=has_gpu)
    assert finding.state == ("note" if remedy else "ok")
    assert remedy in finding.remedy


def test_a_recipes_threads_come_before_the_environments() -> None:
    assert only(check_threads(4096)).found.startswith("4096 a rank")
    assert only(check_threads(None)).found.startswith(f"{torch.get_num_threads()} a rank")


# What is tried for real


def test_ranks_add_their_numbers() -> None:
    assert gloo_sums(3) == [6.0, 6.0, 6.0]
    assert only(check_communication()).state == "ok"


def test_a_network_interface_that_is_not_there_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    (finding,) = run_check("communication", "set GLOO_SOCKET_IFNAME", check_communication)
    assert finding.state == "fault"
    assert "nowhere0" in finding.found


@pytest.mark.filterwarnings("ignore:Paged optimizers")
def test_bitsandbytes_computes_here_and_wrong_results_are_faults() -> None:
    assert only(check_bitsandbytes()).state == "ok"
    assert judge_bitsandbytes("cpu", 0.09, 1.0, "uint8").state == "ok"
    assert judge_bitsandbytes("cpu", 0.5, 1.0, "uint8").state == "fault"
    assert judge_bitsandbytes("cpu", float("nan"), 1.0, "uint8").state == "fault"
    assert judge_bitsandbytes("cpu", 0.09, 0.0, "uint8").state == "fault"
    assert judge_bitsandbytes("cpu", 0.09, 1.0, "float32").state == "fault"


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", TINY)
def test_a_gap_cuts_attention_only_where_no_mask_is_passed(model_type: str, kernel: str) -> None:
    model = tiny_model(model_type, kernel, "cpu", torch.float32)
    assert loss_error(model, model) < 1e-5
    assert decodes_alike(model)

    def without_mask(**arguments: Any) -> Any:
        return model(**{**arguments, "attention_mask": None})

    assert loss_error(model, without_mask) > 0.1


def test_training_that_falls_into_the_trap_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(check_gap("sdpa", torch.bfloat16)).state == "ok"

    def careless(call: Any, micro_batch: Any, device: torch.device, packed: bool) -> Any:
        return token_loss_sum(lambda **given: call(**{**given, "attention_mask": None}), micro_batch, device)

    monkeypatch.setattr(attention_trap, "token_loss_sum", careless)
    finding = only(check_gap("sdpa", torch.bfloat16))
    assert finding.state == "fault"
    assert "gpt2 with sdpa on cpu: loss off by" in finding.found
    assert "keep_positions" in finding.remedy


def test_decoding_that_closes_the_gap_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gpt2", "sdpa", "cpu", torch.float32)
    decode = attention_trap.greedy_decode

    def careless(model: Any, prompts: list[Prompt], *others: Any) -> Any:
        rows = [replace(prompt.row, position_ids=np.arange(len(prompt.row.input_ids))) for prompt in prompts]
        return decode(model, [replace(p, row=row) for p, row in zip(prompts, rows, strict=True)], *others)

    monkeypatch.setattr(attention_trap, "greedy_decode", careless)
    assert not decodes_alike(model)


def test_the_kernel_and_why() -> None:
    finding = only(check_attention("auto", torch.bfloat16))
    assert finding.state == "ok"
    assert finding.found.startswith("sdpa (no flash_attention_2: no GPU")
    asked = only(check_attention("flash_attention_2", torch.bfloat16))
    assert (asked.state, asked.remedy) == ("fault", "set model.attention auto")


# A recipe


def test_a_sound_recipe_has_no_fault(tmp_path: Path) -> None:
    findings = examine(write_recipe(tmp_path, engine__num_threads=7))
    assert [finding for finding in findings if finding.state == "fault"] == []
    found = {finding.check: finding.found for finding in findings}
    assert found["recipe"].endswith("every setting is sound")
    assert found["DeepSpeed JSON"] == "ds_configs/zero0.json: ZeRO-0"
    assert found["model"].startswith("gpt2 from scratch")
    assert found["data"] == f"data.validation: {tmp_path / 'validation.txt'}: 13 rows"
    assert str(tmp_path / "run") in found["disk, runs"]
    assert found["threads"].startswith("7 a rank")


def test_every_fault_of_a_recipe_is_told_and_the_machine_still_examined(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, optim__lr=-1, removal__keep_positions=True, removal__side="right")
    findings = examine(recipe)
    faults = [finding.found for finding in findings if finding.state == "fault"]
    assert any("optim.lr" in found for found in faults)
    assert any("removal.keep_positions" in found for found in faults)
    assert "memory" in {finding.check for finding in findings}
    assert "data" not in {finding.check for finding in findings}  # nothing that it names can be trusted
    assert read_recipe(recipe)[0] is None


def test_offload_and_a_faulty_deepspeed_file_are_told(tmp_path: Path) -> None:
    offload = only(check_ds_config(tiny_config(tmp_path, engine__deepspeed="ds_configs/zero3_offload.json")))
    assert offload.found.endswith("ZeRO-3, optimizer on cpu, param on cpu")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    finding = only(check_ds_config(tiny_config(tmp_path, engine__deepspeed=str(broken))))
    assert finding.state == "fault"
    assert "not valid JSON" in finding.found


def test_data_that_is_missing_or_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("1||2 #### 3\nno separator\n")
    missing, broken = check_data(DataConfig(train=str(tmp_path / "none.txt"), validation=str(tmp_path / "broken.txt")))
    assert (missing.state, broken.state) == ("fault", "fault")
    assert missing.found.startswith("data.train: ") and "no such file" in missing.found
    assert f"{tmp_path / 'broken.txt'}:2" in broken.found
    skipping = DataConfig(
        train=str(tmp_path / "broken.txt"), validation=str(tmp_path / "broken.txt"), on_bad_row="skip"
    )
    assert check_data(skipping)[0].found.endswith("1 rows, 1 broken ones skipped")


def test_a_model_folder_is_read_and_one_without_weights_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    model = tiny_model("gpt2", "sdpa", "cpu", torch.float32)
    model.save_pretrained(folder)
    build_word_tokenizer().save_pretrained(folder)
    config = tiny_config(tmp_path, model={"name_or_path": str(folder)})
    assert only(check_model(config)).found.startswith(f"{folder}: gpt2, 0.00 GB")
    (folder / "model.safetensors").unlink()
    finding = only(check_model(config))
    assert finding.state == "fault"
    assert "holds no weights" in finding.found


# The Hub


class _Hub(BaseHTTPRequestHandler):
    """Knows one model."""

    def do_GET(self) -> None:
        known = "/owner/known" in self.path
        body = b'{"id": "owner/known", "siblings": []}' if known else b'{"error": "Repository not found"}'
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_name_is_asked_for(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_hub("model", "model.name_or_path", "owner/known").state == "ok"
    unknown = check_hub("model", "model.name_or_path", "owner/unknown")
    assert unknown.state == "fault"
    assert "model.name_or_path (owner/unknown): not here, and the Hub refuses it" in unknown.found
    assert "HF_TOKEN" in unknown.remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in check_hub("model", "model.name_or_path", "owner/known").found


def test_a_hub_that_does_not_answer_is_a_fault(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # the port to throw things at
    finding = check_hub("dataset", "data.train", "owner/known")
    assert finding.state == "fault"
    assert "does not answer" in finding.found
    assert "HTTPS_PROXY" in finding.remedy


def test_a_recipe_asks_the_hub_only_for_what_is_not_here(hub: HTTPServer, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model={"name_or_path": "owner/known"})
    assert only(check_model(config)).found == "model.name_or_path (owner/known): on the Hub"
    local, remote = check_data(DataConfig(train=config.data.train, validation="owner/unknown:main"))
    assert local.state == "ok"
    assert remote.found.startswith("data.validation (owner/unknown): not here, and the Hub refuses it")


def test_a_path_that_is_not_there_is_no_hub_name(hub: HTTPServer, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, model={"name_or_path": f"{tmp_path}/known"})
    assert "there is no such folder" in only(check_model(config)).found
    for path in ("~/known", f"{tmp_path}/known"):
        for finding in check_data(DataConfig(train=path, validation=path)):
            assert "no such file" in finding.found
