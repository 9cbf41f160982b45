"""Set before anything imports torch or DeepSpeed."""

import os
import signal
from pathlib import Path

import pytest

if "TACIT_TEST_GPU" not in os.environ:  # all tests but those of `make test-gpu` are to run alike everywhere
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what runs in the background deaf to Ctrl-C, and so would be all that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home of the test's own: what is kept in ``~/.cache`` is not there before, and goes with the test."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    return home
