"""`tacit doctor` through the shell: table, JSON, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

from tests.forked import tacit
from tests.tiny import ROOT, shell_environment, write_recipe


def test_a_fit_machine_exits_with_0_and_stdout_is_json(tmp_path: Path) -> None:
    threads = tmp_path / "threads.yaml"
    threads.write_text("engine:\n  num_threads: 7\n")  # over the recipe, as in a training
    finished = tacit("doctor", "--json", f"--config={write_recipe(tmp_path)}", f"--config={threads}")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = json.loads(finished.stdout)
    assert result["num_faults"] == 0
    checks = result["checks"]
    assert all(check.keys() == {"check", "state", "found", "remedy"} for check in checks)
    assert {check["state"] for check in checks} <= {"ok", "note"}
    assert {"recipe", "model", "data", "position gaps", "bitsandbytes"} <= {check["check"] for check in checks}
    assert any(check["check"] == "threads" and check["found"].startswith("7 a rank") for check in checks)
    assert "Traceback" not in finished.stderr


def test_faults_exit_with_1_and_stand_in_the_table_with_their_remedy(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "train.txt").unlink()
    finished = tacit("doctor", f"--config={recipe}", GLOO_SOCKET_IFNAME="nowhere0", TERM="dumb")
    assert finished.returncode == 1
    assert "Traceback" not in finished.stdout + finished.stderr
    lines = finished.stdout.splitlines()
    (communication,) = (line for line in lines if line.lstrip().startswith("communication"))
    assert "fault" in communication and "GLOO_SOCKET_IFNAME" in communication
    assert any(line.lstrip().startswith("data") and "fault" in line for line in lines)
    assert lines[-1].startswith("2 faults, ")


def test_a_package_that_does_not_import_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "transformers.py").write_text("raise ImportError('built for another torch')\n")
    finished = subprocess.run(
        [sys.executable, "-m", "pipeline", "doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=shell_environment(PYTHONPATH=str(tmp_path)),
    )
    assert finished.returncode == 1
    assert finished.stderr == ""
    fault = json.loads(finished.stdout)["checks"][-1]
    assert (fault["check"], fault["state"]) == ("imports", "fault")
    assert fault["found"] == "ImportError: built for another torch"


def test_wrong_use_exits_with_2() -> None:
    for arguments, says in (
        (("--config", "nowhere.yaml"), "--config nowhere.yaml: no such file"),
        (("--config", "nowhere.yaml", "--config", "recipes/demo.yaml"), "--config nowhere.yaml: no such file"),
        (("--jsn",), "--jsn: unknown option of tacit doctor. Did you mean --json?"),
    ):
        finished = tacit("doctor", *arguments)
        assert (finished.returncode, finished.stdout) == (2, "")
        (line,) = finished.stderr.splitlines()
        assert line.startswith("tacit: error: ") and says in line


def test_help_lists_the_options_without_waiting_for_torch() -> None:
    code = "import sys; from pipeline.cli.main import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.stdout.splitlines()[-1] == "False"
    assert all(option in finished.stdout for option in ("--config", "--json", "exits with 1"))
