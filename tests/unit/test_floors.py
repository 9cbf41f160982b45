"""The package is built in floors: a module imports only from floors below its own.

Imports inside functions and under TYPE_CHECKING count as well: a type is a dependency too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pipeline"

# From the ground up. Modules on one floor may not import each other; a package counts as one module.
FLOORS = (
    ("errors",),
    ("config", "records", "word_tokenizer", "words", "hub", "model_size", "micro_batches"),
    ("scoring", "tasks", "schedule", "learning_rate", "collapse", "manifest", "frontier"),
    ("removal", "difficulty", "report", "ds_config", "flops"),
    ("layout", "answer_spec", "audit_report"),
    ("stage_registry", "verdict", "chat_template"),
    ("provenance", "row_text"),
    ("model_card", "word_rows"),
    ("token_table",),
    ("examples",),
    ("batching", "modeling", "ranks"),
    ("packing", "requests", "watchdog", "trackers"),
    ("loss",),
    ("engine", "throughput"),
    ("decoding", "model_folder"),
    ("verification", "checkpoint"),
    ("evaluation", "answering"),
    ("controller", "web"),
    ("recorder",),
    ("guard",),
    ("keeper", "comparison", "export", "run_dir", "audit_rows"),
    ("preparation", "audit"),
    ("train", "plan", "preview", "doctor"),
    ("rehearsal",),
    ("cli",),
    ("__main__",),
)
# What is pure must stay quick to import and to test.
WITHOUT_TORCH = {"errors", "config", "records", "scoring", "tasks", "schedule", "learning_rate", "collapse"}
WITHOUT_TORCH |= {"frontier", "report", "difficulty", "audit_report", "verdict"}
WITHOUT_TORCH |= {"model_size", "micro_batches", "ds_config", "flops"}
ONLY_IMPORTER_OF_DEEPSPEED = "engine"


def imported_names(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of everything a file imports, wherever it does."""
    inside = (package.name, *path.relative_to(package).parent.parts)  # the package that relative imports start from
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def module_of(path: Path, package: Path) -> str:
    """Return the module or sub-package that a file belongs to; empty for the package's own ``__init__.py``."""
    first = path.relative_to(package).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def faults_of(package: Path, floors: tuple[tuple[str, ...], ...] = FLOORS) -> list[str]:
    """Return every import that breaks a rule, and every module that stands on no floor."""
    floor_of = {module: number for number, floor in enumerate(floors) for module in floor}
    faults = []
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        if module and module not in floor_of:
            faults.append(f"{module}: stands on no floor")
            continue
        for line, name in imported_names(path, package):
            root, _, rest = name.partition(".")
            place = f"{path.relative_to(package)}:{line}"
            if root == package.name:
                target = rest.partition(".")[0]
                # The package's own __init__ stands below all: it may import nothing of it.
                if target != module and floor_of.get(target, len(floors)) >= floor_of.get(module, -1):
                    faults.append(f"{place}: imports {target}, which is not below {module or 'everything'}")
            elif root == "deepspeed" and module != ONLY_IMPORTER_OF_DEEPSPEED:
                faults.append(f"{place}: imports deepspeed")
            elif root == "torch" and module in WITHOUT_TORCH:
                faults.append(f"{place}: imports torch")
    return faults


def test_modules_import_only_from_floors_below() -> None:
    assert faults_of(PACKAGE) == []


def test_every_floor_exists() -> None:
    modules = {module_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    listed = [module for floor in FLOORS for module in floor]
    assert set(listed) - modules == set()
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("file", "code", "fault"),
    [
        ("schedule.py", "from pipeline.engine import Engine", "schedule.py:1: imports engine"),
        ("schedule.py", "import pipeline.train", "schedule.py:1: imports train"),
        ("schedule.py", "from pipeline import examples", "schedule.py:1: imports examples"),
        ("schedule.py", "from . import engine", "schedule.py:1: imports engine"),
        ("schedule.py", "from .engine import Engine", "schedule.py:1: imports engine"),
        ("tasks/digits.py", "from ..engine import Engine", "tasks/digits.py:1: imports engine"),
        ("removal.py", "def f():\n    from pipeline.layout import Row", "removal.py:2: imports layout"),
        ("removal.py", "if TYPE_CHECKING:\n    import pipeline.layout", "removal.py:2: imports layout"),
        ("layout.py", "import pipeline.answer_spec", "layout.py:1: imports answer_spec"),  # the same floor
        ("layout.py", "from pipeline.nowhere import x", "layout.py:1: imports nowhere"),
        ("__init__.py", "from pipeline.config import Config", "__init__.py:1: imports config"),
        ("batching.py", "import deepspeed.comm", "batching.py:1: imports deepspeed"),
        ("records/rows.py", "def f():\n    import torch", "records/rows.py:2: imports torch"),
        ("novelty.py", "", "novelty: stands on no floor"),
    ],
)
def test_the_check_sees(tmp_path: Path, file: str, code: str, fault: str) -> None:
    path = tmp_path / "pipeline" / file
    path.parent.mkdir(parents=True)
    path.write_text(code)
    found = faults_of(tmp_path / "pipeline")
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_the_check_lets_pass_what_is_allowed(tmp_path: Path) -> None:
    package = tmp_path / "pipeline"
    (package / "tasks").mkdir(parents=True)
    (package / "tasks" / "digits.py").write_text("from .task import Task\nfrom pipeline.tasks.task import Task")
    (package / "engine.py").write_text("import torch, deepspeed\nfrom pipeline.config import OptimConfig")
    assert faults_of(package) == []
