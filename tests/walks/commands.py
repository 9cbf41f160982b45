"""The commands that README and docs show: found in their code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.tiny import ROOT

PROGRAMS = ("tacit", "make", "launchers/", "python", "deepspeed", "docker", "sbatch", "lm_eval", "tensorboard", "touch")
PROGRAMS += ("LAUNCHER=", "NNODES=", "hf ", "vllm", "curl", ".venv/")
SHELL = ("sh", "bash", "")


@dataclass(frozen=True)
class Command:
    """One command as a page shows it."""

    page: str
    text: str
    """On one line, without the remark behind it."""
    needs_gpu: bool
    """Whether its block is marked so."""


def pages() -> list[Path]:
    """Return README and every page of docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(page: Path) -> list[Command]:
    """Return the commands of a page, in order."""
    found, begun = [], ""
    for language, line in _code_lines(page.read_text(encoding="utf-8")):
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        text, begun = re.sub(r"\s{2,}#.*|\s+$", "", begun), ""
        if text.startswith(PROGRAMS) and not re.match(r"[\w/]+/ {3}", text):  # a line of the README's tree
            found.append(Command(page.name, text, needs_gpu="gpu" in language.split()))
    return found


def _code_lines(text: str) -> Iterator[tuple[str, str]]:
    language: str | None = None
    for line in text.splitlines():
        fence = re.match(r"```(.*)", line)
        if fence:
            language = None if language is not None else fence[1]
        elif language is None and line.startswith("    "):
            yield "", line
        elif language is not None and (language.split() or [""])[0] in SHELL:
            yield language, line
