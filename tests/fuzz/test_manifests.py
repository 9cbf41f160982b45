"""Whatever stands in a manifest: whole, or a fault in words; nothing outside the folder is opened."""

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest import MANIFEST, fault_of, write_manifest
from tests.fuzz.cases import fuzz, mutated

CONTENTS = {"controller.json": b'{"step": 3, "world_size": 1}', "engine/weights.pt": b"\x80\x02 weights"}
OUTSIDE = b"not of this checkpoint"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint, with links that lead out of it and in circles."""
    parent = tmp_path_factory.mktemp("checkpoints")
    made = parent / "step_00000003"
    (made / "engine").mkdir(parents=True)
    for name, content in CONTENTS.items():
        (made / name).write_bytes(content)
    write_manifest(made)
    (parent / "outside").write_bytes(OUTSIDE)
    (made / "link").symlink_to("../outside")
    (made / "folder_link").symlink_to("..")
    (made / "loop").symlink_to("loop")
    return made


def entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def whole_manifest() -> bytes:
    return json.dumps({name: entry(content) for name, content in CONTENTS.items()}).encode()


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Refuse to open anything that lies outside the folder."""
    opened: list[Path] = []
    really_open = Path.open

    def note(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path)
        return really_open(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", note)
        yield
    assert [path for path in opened if not Path(os.path.realpath(path)).is_relative_to(folder)] == []


def judged(folder: Path, manifest: bytes) -> str | None:
    (folder / MANIFEST).write_bytes(manifest)
    with watched(folder):
        fault = fault_of(folder)
    assert fault is None or fault.strip()
    return fault


NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, -1, True])
LEAVES = st.none() | NUMBERS | st.text(max_size=5)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
OUTSIDE_NAMES = ("../outside", "link", "folder_link/outside", "engine/../../outside")
INSIDE_NAMES = (
    *CONTENTS,
    "",
    ".",
    "engine",
    "loop",
    "loop/x",
    "absent",
    "a" * 5000,
    "\x00",
    "\ud800",
    "engine/../controller.json",
)
NAMES = st.sampled_from([*OUTSIDE_NAMES, *INSIDE_NAMES]) | st.text(max_size=5)
RIGHT = st.sampled_from([entry(content) for content in (*CONTENTS.values(), OUTSIDE, b"")])
WRONG = st.fixed_dictionaries({"size": JSON, "sha256": JSON})
ENTRIES = RIGHT | WRONG | JSON


def is_right(folder: Path, name: str, expected: dict[str, Any]) -> bool:
    path = Path(os.path.realpath(folder / name))
    return path.is_relative_to(folder) and path.is_file() and entry(path.read_bytes()) == expected


@fuzz
@given(mutated(st.builds(whole_manifest)))
def test_a_damaged_manifest_is_a_fault_or_still_right(folder: Path, manifest: bytes) -> None:
    if judged(folder, manifest) is None:
        listed = json.loads(manifest)
        assert listed and all(is_right(folder, name, expected) for name, expected in listed.items())


@fuzz
@given(JSON | st.dictionaries(NAMES, ENTRIES, max_size=3))
def test_any_manifest_is_a_fault_unless_all_it_lists_is_here(folder: Path, manifest: Any) -> None:
    if judged(folder, json.dumps(manifest).encode()) is None:
        assert isinstance(manifest, dict) and manifest
        assert all(is_right(folder, name, expected) for name, expected in manifest.items())


@fuzz
@given(st.binary(max_size=50) | mutated(st.just(CONTENTS["controller.json"])))
def test_another_state_than_was_saved_is_a_fault(folder: Path, content: bytes) -> None:
    (folder / "controller.json").write_bytes(content)
    fault = judged(folder, whole_manifest())
    (folder / "controller.json").write_bytes(CONTENTS["controller.json"])
    assert (fault is None) == (content == CONTENTS["controller.json"])


@pytest.mark.parametrize("name", [*OUTSIDE_NAMES, "absolute"])
def test_a_name_that_leads_outside_is_a_fault(folder: Path, name: str) -> None:
    name = str(folder.parent / "outside") if name == "absolute" else name
    assert (folder / name).read_bytes() == OUTSIDE
    assert judged(folder, json.dumps({name: entry(OUTSIDE)}).encode())


@pytest.mark.parametrize(
    "manifest",
    [
        *(b"", b"null", b"[]", b"{}", b"3", b'"a"', b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 5000),
        *(b'{"controller.json": {"size": Infinity, "sha256": "x"}}', b'{"controller.json": {"size": NaN}}'),
        *(b'{"controller.json": null}', b'{"controller.json": []}', b'{"controller.json": {}}', b'{"loop": {}}'),
        json.dumps({"loop": entry(b"")}).encode(),
    ],
    ids=lambda manifest: manifest[:30].decode(errors="replace"),
)
def test_what_is_no_manifest_is_a_fault(folder: Path, manifest: bytes) -> None:
    assert judged(folder, manifest)


def test_a_missing_manifest_is_a_fault(tmp_path: Path) -> None:
    assert fault_of(tmp_path)
    assert fault_of(tmp_path / "absent")


def test_a_pipe_in_a_files_place_is_a_fault(folder: Path) -> None:
    os.mkfifo(folder / "pipe")  # to open it would be to wait for a writer that never comes
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("opens the pipe and waits"))
    signal.alarm(5)
    try:
        assert judged(folder, json.dumps({"pipe": entry(b"")}).encode())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        (folder / "pipe").unlink()
