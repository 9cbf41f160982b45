"""Measurements that outlast the process that made them: one small file each, named after all that they depend on."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.records import write_lines

PACKAGE = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "peft")
FOLDER = "plans"


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of measurements; several processes may use it at once."""

    folder: Path | None
    """None keeps nothing."""

    def recall(self, depends_on: object, measure: Callable[[], Any]) -> Any:
        """Return what was measured before, by this code, of the same things; else measure, and keep it.

        Args:
            depends_on: Everything the result depends on besides code and libraries; its ``repr`` must say all of it.
            measure: Returns plain values, as JSON has them. What it raises is not kept.
        """
        if self.folder is None:
            return measure()
        path = self.folder / f"{_digest(repr((_measured_by(), depends_on)))}.json"
        found = _read(path)
        if found is not None:
            return found
        result = measure()
        entry = json.dumps({"sha256": _digest(json.dumps(result)), "result": result})
        with suppress(UserError, ValueError):  # where nothing can be written, a plan is slow and no worse
            write_lines(path, [entry])
        return result


def store_of(config: Config) -> Store:
    """Return the store beside a recipe's tokenised rows."""
    if config.model.trust_remote_code:
        return Store(None)  # what is measured depends on code that comes with the model, which no key here knows
    try:
        return Store(Path(config.data.cache_dir).expanduser() / FOLDER)
    except RuntimeError:  # the home of nobody
        return Store(None)


def _read(path: Path) -> Any:
    """Return an entry's result; None if there is none, or it is not as it was written."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry["result"] if _digest(json.dumps(entry["result"])) == entry["sha256"] else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@cache
def _measured_by() -> tuple[str, ...]:
    """Return the versions of the libraries, and a hash of this package."""
    # The whole package: model, attention, adapters and loss come from all over it, no list of files would stay right,
    # and hashing all of them takes some milliseconds.
    sources = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        sources.update(f"{path.relative_to(PACKAGE)}\0".encode() + path.read_bytes() + b"\0")
    return (*map(version, LIBRARIES), sources.hexdigest())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
