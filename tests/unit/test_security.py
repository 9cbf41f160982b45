"""What must not stand in the code, and what must not be written: SECURITY.md promises it."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import recorder
from pipeline.config import ModelConfig

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipeline", "launchers")
# Each runs what it reads, or hands a text to a shell.
FORBIDDEN = {
    *("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive"),
    *("pickle.load", "pickle.loads", "dill.load", "joblib.load", "marshal.load", "marshal.loads", "shelve.open"),
    *("numpy.load", "pandas.read_pickle"),
}
FORBIDDEN_METHODS = ("extractall", "instantiate", "instantiate_classes")  # the last two: what `class_path` names


def names_of_imports(tree: ast.AST) -> dict[str, str]:
    """Return what each imported name stands for, in full."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def faults_of(code: str) -> Iterator[str]:
    """Yield every call that breaks a promise, with its line."""
    tree = ast.parse(code)
    names = names_of_imports(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        called = f"{names.get(first, first)}{dot}{rest}"
        options = {option.arg: option.value for option in node.keywords}
        constants = {name: value.value for name, value in options.items() if isinstance(value, ast.Constant)}
        if called in FORBIDDEN or called.rpartition(".")[2] in FORBIDDEN_METHODS:
            yield f"{node.lineno}: {called}"
        if called == "torch.load" and constants.get("weights_only") is not True:
            yield f"{node.lineno}: torch.load without weights_only=True"
        if "shell" in options and constants.get("shell") is not False:
            yield f"{node.lineno}: shell"
        if constants.get("trust_remote_code") is True:
            yield f"{node.lineno}: trust_remote_code=True"
        if constants.get("allow_pickle") is True:
            yield f"{node.lineno}: allow_pickle=True"


def test_nothing_runs_what_it_reads() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(paths) > 50
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in paths for fault in faults_of(path.read_text())]
    assert found == []


def test_code_of_a_model_is_not_trusted_unless_the_recipe_says_so() -> None:
    assert not ModelConfig().trust_remote_code


def test_no_launcher_makes_a_command_of_text() -> None:
    paths = [path for path in (ROOT / "launchers").iterdir() if path.suffix in (".sh", ".sbatch")]
    assert len(paths) > 5
    lines = [line.split("#")[0] for path in paths for line in path.read_text().splitlines()]
    assert [line for line in lines if line.split()[:1] in (["eval"], ["source"], ["."])] == []
    # The one script in a string takes what it runs as arguments, in the single quotes of the launcher's own text.
    assert [
        line.strip() for line in lines if "-c " in line and "python -c" not in line and "bash -c '" not in line
    ] == []


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("import os\nos.system(command)", "2: os.system"),
        ("from os import system as run\nrun(command)", "2: os.system"),
        ("import subprocess as s\ns.run(command, shell=True)", "2: shell"),
        ("import subprocess\nsubprocess.run(command, shell=asked)", "2: shell"),
        ("import yaml\nyaml.load(text, Loader=yaml.SafeLoader)", "2: yaml.load"),
        ("import pickle\npickle.loads(data)", "2: pickle.loads"),
        ("from pickle import load\nload(file)", "2: pickle.load"),
        ("import numpy as np\nnp.load(path)", "2: numpy.load"),
        ("import torch\ntorch.load(path)", "2: torch.load without weights_only=True"),
        ("import torch\ntorch.load(path, weights_only=False)", "2: torch.load without weights_only=True"),
        ("import torch\ntorch.load(path, weights_only=asked)", "2: torch.load without weights_only=True"),
        ("from torch import load\nload(path)", "2: torch.load without weights_only=True"),
        ("AutoModel.from_pretrained(name, trust_remote_code=True)", "1: trust_remote_code=True"),
        ("tarfile.open(path).extractall()", "1: tarfile.open(path).extractall"),
        ("eval(text)", "1: eval"),
        ("parser.instantiate(settings)", "1: parser.instantiate"),
    ],
)
def test_the_check_sees(code: str, fault: str) -> None:
    assert list(faults_of(code)) == [fault]


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import subprocess\nsubprocess.run(['ninja', '--version'])",
        "model.eval()",
        "import yaml\nyaml.safe_load(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=config.trust_remote_code)",
    ],
)
def test_the_check_lets_pass_what_is_safe(code: str) -> None:
    assert list(faults_of(code)) == []


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "NCCL_TOKEN"])
def test_no_secret_of_the_shell_is_written_down(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "s3cret-of-the-shell")
    written = json.dumps(recorder._environment())
    assert "s3cret-of-the-shell" not in written and name not in written
