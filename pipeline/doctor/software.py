"""Python, packages and compilers."""

import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement

from pipeline.doctor.finding import Finding

PINS = Path(__file__).parents[2] / "requirements.txt"  # there in a checkout, not in an installed wheel
INSTALL = "pip install -r requirements.txt"
OPTIONAL = ("flash-attn", "triton")
SHOWN = ("torch", "transformers", "deepspeed", "peft", "bitsandbytes", "accelerate", "datasets")
COMPILERS = {"g++": ("-dumpfullversion",), "ninja": ("--version",), "nvcc": ("--version",)}


def check_python() -> list[Finding]:
    """Say which Python runs; one too old to run this cannot get here."""
    return [Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")]


def check_packages() -> list[Finding]:
    """Compare what is installed with what the package needs and, in a checkout, with the tested versions."""
    try:
        needed = [Requirement(text) for text in importlib.metadata.requires("tacit") or ()]
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        needed = []
    needed = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate()]
    pins = read_pins(PINS.read_text(encoding="utf-8")) if PINS.is_file() else []
    names = {requirement.name for requirement in (*needed, *pins)} | set(OPTIONAL)
    return judge_packages(needed, pins, {name: version for name in sorted(names) if (version := _version(name))})


def read_pins(text: str) -> list[Requirement]:
    """Return the requirements of a requirements file that holds nothing but pins and comments."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def judge_packages(
    needed: Iterable[Requirement], pins: Iterable[Requirement], versions: Mapping[str, str]
) -> list[Finding]:
    """Return a fault for each package missing or too old, a note for each that is not the tested version.

    Args:
        needed: What the package cannot do without.
        pins: The tested versions.
        versions: What is installed, by name.
    """
    faults, notes, bad = [], [], set()
    for requirement in (*needed, *pins):
        name = requirement.name
        if name in bad:
            continue
        if name not in versions:
            bad.add(name)
            faults.append(Finding(f"package {name}", "fault", "not installed", INSTALL))
        elif not requirement.specifier.contains(versions[name], prereleases=True):
            bad.add(name)
            found = f"{versions[name]}, not {requirement.specifier}"
            if requirement in pins:
                notes.append(Finding(f"package {name}", "note", f"{found}, which was tested", INSTALL))
            else:
                faults.append(Finding(f"package {name}", "fault", found, INSTALL))
    shown = ", ".join(f"{name} {versions[name]}" for name in (*SHOWN, *OPTIONAL) if name in versions)
    as_tested = "every one as tested: " if pins and not bad else ""
    return [Finding("packages", "ok", as_tested + shown), *faults, *notes]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_compilers() -> list[Finding]:
    """Find the compilers, and ask each for its version."""
    found: dict[str, str | None] = {}
    for name, arguments in COMPILERS.items():
        path = shutil.which(name)
        found[name] = None
        if path:
            finished = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=10)
            lines = finished.stdout.strip().splitlines()
            found[name] = _release(lines[-1]) if finished.returncode == 0 and lines else None
    return [judge_compilers(found)]


def _release(line: str) -> str:
    """Return the version in a compiler's line; ninja's and nvcc's carry more than that."""
    number = re.search(r"\d+(\.\d+)+", line)
    return number[0] if number else line


def judge_compilers(versions: Mapping[str, str | None]) -> Finding:
    """Note what is missing: recipes compile nothing, DeepSpeed's own operators and Triton do."""
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version) or "none"
    missing = [name for name, version in versions.items() if not version]
    if "g++" in missing or "ninja" in missing:
        names = " and ".join(name for name in missing if name != "nvcc")
        return Finding(
            "compilers",
            "note",
            f"{there}; no {', no '.join(missing)}",
            f"install {names} if DeepSpeed's compiled operators (CPUAdam, FusedAdam) or Triton are wanted; "
            "the recipes here need neither",
        )
    without_nvcc = "; no nvcc, which only DeepSpeed's CUDA operators and building flash-attn need" if missing else ""
    return Finding("compilers", "ok", there + without_nvcc)
