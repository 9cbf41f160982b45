"""What a machine lacks is told in one line: memory of a GPU, room on a disk."""

import errno
import os

import pytest
import torch

from pipeline.cli import main as command


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."), "Halve engine.micro_batch_tok"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"), "runs/x; make room."),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "runs/x"), "runs/x; write to another folder."),
    ],
)
def test_what_the_machine_lacks_is_told_in_one_line(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise error

    monkeypatch.setattr(command, "_run", fail)
    assert command.main(["train"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tacit: error: ") and told in line


def test_other_errors_of_pytorch_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: object) -> int:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(command, "_run", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        command.main(["train"])
