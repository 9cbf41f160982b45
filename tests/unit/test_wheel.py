"""What a wheel installs works without the checkout: every module is there, as are the DeepSpeed files."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.tiny import ROOT, shell_environment

IN_WHEEL = ("pipeline", "ds_configs")
READ = """
from pathlib import Path
from pipeline import ds_config
from pipeline.config import EngineConfig

assert Path(ds_config.__file__).is_relative_to({folder!r})
for name in {names!r}:
    ds_config.load_ds_config(EngineConfig(deepspeed=name))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a wheel is unpacked in, as pip would."""
    source, built, folder = (tmp_path_factory.mktemp(name) for name in ("source", "built", "installed"))
    for name in IN_WHEEL:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = built.iterdir()
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_file_is_in_the_wheel(installed: Path) -> None:
    def files(root: Path) -> set[str]:
        found = (path for name in IN_WHEEL for path in (root / name).rglob("*") if path.is_file())
        return {str(path.relative_to(root)) for path in found if path.suffix != ".pyc"}

    assert files(installed) == files(ROOT) != set()


def test_the_deepspeed_files_are_found_from_anywhere(installed: Path, tmp_path: Path) -> None:
    names = [str(path.relative_to(ROOT)) for path in (ROOT / "ds_configs").iterdir()]
    read = READ.format(folder=str(installed), names=names)
    environment = shell_environment(PYTHONPATH=str(installed))
    done = subprocess.run(
        [sys.executable, "-c", read], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
