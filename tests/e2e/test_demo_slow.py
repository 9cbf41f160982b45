"""The whole demo, as `make demo` runs it, with another seed than the one its settings were watched with last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT, shell_environment

SEED = "1"


@pytest.mark.slow
def test_the_demo_internalizes_its_chain_of_thought(tmp_path: Path) -> None:
    environment = shell_environment()
    environment.pop("OMP_NUM_THREADS", None)
    subprocess.run([str(ROOT / "launchers" / "demo.sh"), SEED, str(tmp_path)], cwd=ROOT, env=environment, check=True)
    runs = tmp_path / "runs"
    folders = [f"demo_seed{SEED}/stages/removed_0000", f"demo_seed{SEED}/model", f"demo_seed{SEED}_no_cot/model"]
    data = str(tmp_path / "data" / "lock" / "test.txt")
    command = [sys.executable, "-m", "pipeline", "evaluate", "--data", data, "--json"]
    printed = subprocess.run(
        [*command, "--model", *(str(runs / folder) for folder in folders)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    explicit, internalized, no_cot = json.loads(printed)
    assert all(row["num_examples"] == 1000 for row in (explicit, internalized, no_cot))
    assert explicit["accuracy"] >= 0.97 and explicit["cot_tokens"] >= 8
    assert internalized["accuracy"] >= 0.95 and internalized["cot_tokens"] == 0
    assert no_cot["accuracy"] <= internalized["accuracy"] - 0.3
    assert internalized["examples_per_second"] > 1.5 * explicit["examples_per_second"]
