"""The `tacit` command through the shell: help, mistakes, exit codes."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline.cli.main import COMMANDS
from pipeline.config.parsing import FIELD_TYPES
from tests.forked import tacit

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "deepspeed", "datasets")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def refused(*arguments: str) -> list[str]:
    """Run a command that must be refused; returns the messages without their common beginning."""
    finished = tacit(*arguments)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    lines = finished.stderr.splitlines()
    assert lines
    assert all(line.startswith("tacit: error: ") for line in lines), finished.stderr
    return [line.removeprefix("tacit: error: ") for line in lines]


# Help


def test_help_lists_every_command() -> None:
    finished = tacit("--help")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert all(f"  {name} " in finished.stdout and text in finished.stdout for name, text in COMMANDS.items())
    assert all((ROOT / "pipeline" / "cli" / f"{name}.py").is_file() for name in COMMANDS)


@pytest.mark.parametrize(("arguments", "lists"), [((), "train"), (("data",), "multiplication")])
def test_no_command_shows_the_help_and_counts_as_wrong_use(arguments: tuple[str, ...], lists: str) -> None:
    finished = tacit(*arguments)
    assert finished.returncode == 2
    assert lists in finished.stdout


def test_version() -> None:
    finished = tacit("--version")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == f"tacit {tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['version']}\n"


@pytest.mark.parametrize("command", ["train", "plan", "evaluate", "frontier", "audit", "export"])
def test_help_offers_only_what_is_read_and_names_the_choices(command: str) -> None:
    words = tacit(command, "--help").stdout.split()
    assert not [word for word in words if word.rstrip(",").endswith("+")]
    assert not {"--optim", "[=flags]", "<function"} & set(words)
    assert command != "export" or "{float32,bfloat16,float16}" in words


@pytest.mark.parametrize(
    ("command", "mentions"),
    [
        ("train", ["--config", "--resume", "--overwrite", "--print_config", *(f"--{name}" for name in FIELD_TYPES)]),
        ("evaluate", ["--model", "--data", "--num_removed", "--batch_size", "--json"]),
        ("frontier", ["run", "--data", "--num_timed", "--one_at_a_time", "--json"]),
        ("audit", ["run", "--data", "--no_cot", "--explicit", "--out_of_distribution", "--json"]),
        ("score", ["file", "--json"]),
        ("data", ["multiplication", "split", "convert"]),
    ],
)
def test_help_of_a_command_mentions_its_options(command: str, mentions: list[str]) -> None:
    finished = tacit(command, "--help")
    assert (finished.returncode, finished.stderr) == (0, "")
    words = set(re.split(r"[][{}(),=\s]+", finished.stdout))
    assert [option for option in mentions if option not in words] == []


def test_help_explains_the_settings() -> None:
    help_text = " ".join(tacit("train", "--help").stdout.split())
    assert "Which end of the CoT goes first." in help_text  # the words under the field, which are its only source
    assert "default: 4.0" in help_text


def test_help_and_mistakes_do_not_wait_for_torch() -> None:
    """Importing torch takes seconds; a typing error must not cost them."""
    code = f"""
import sys
from pipeline.cli.main import main
for arguments in (["--help"], ["train", "--help"], ["evaluate", "--help"], ["score", "--help"], ["data", "--help"],
                  ["frontier", "--help"], ["audit", "--help"]):
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 0, arguments
for arguments in (["trian"], ["train", "--optim.lrr=1"], ["train"], ["evaluate", "--modle=x"], ["score", "--jsn"]):
    assert main(arguments) == 2, arguments
print("loaded:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    finished = _run([sys.executable, "-c", code])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "loaded: []"


def test_rows_in_files_are_read_without_the_library_for_hub_names() -> None:
    finished = _run([sys.executable, "-c", "import sys, pipeline.examples; print('datasets' in sys.modules)"])
    assert (finished.returncode, finished.stdout) == (0, "False\n"), finished.stderr


# Mistakes


def test_unknown_command_names_the_nearest() -> None:
    (message,) = refused("trian", "--config", "x.yaml")
    assert "trian: unknown command. Did you mean train?" in message
    assert all(name in message for name in COMMANDS)


def test_every_wrong_setting_of_a_run_is_told(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim:\n  lr: fast\n  batch_size: 8\nremoval:\n  keep_positions: true\n  side: right\n")
    messages = refused("train", "--config", str(recipe), "--run.output_dri=x")
    text = "\n".join(messages)
    assert "optim.lr ('fast')" in text
    assert "optim.batch_size: unknown setting. Did you mean optim.global_batch_size?" in text
    assert "run.output_dri: unknown setting. Did you mean run.output_dir?" in text
    assert "removal.keep_positions (true) needs removal.side left" in text
    assert "data.train is not set" in text
    assert len(messages) == len(set(messages))


def test_missing_recipe_is_named() -> None:
    (message,) = refused("train", "--config", "nowhere.yaml")
    assert message.startswith("--config nowhere.yaml: cannot be read")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("evaluate", "--modle", "x"), "--modle: unknown option of tacit evaluate. Did you mean --model?"),
        (("score", "--jsn", "x"), "--jsn: unknown option of tacit score. Did you mean --json?"),
        (("data", "multiplicaton"), "Did you mean multiplication?"),
        (("score", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_other_commands_say_it_in_one_line(arguments: tuple[str, ...], says: str) -> None:
    (message,) = refused(*arguments)
    assert says in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("evaluate", "--model=x", "--data=y", "--batch_size=0"), ("--batch_size (0) must be at least 1",)),
        (("evaluate", "--model=x", "--data=y", "--num_removed=-1"), ("--num_removed (-1) must be at least 0",)),
        (("evaluate", "--model=x", "--data=y", "--source_format=foo"), ("--source_format (foo) must be one of auto,",)),
        (
            ("evaluate", "--model=x", "--data", "y", "--batch_size", "1e3"),
            ("--batch_size (1e3) must be a whole number;",),
        ),
        (("data", "automaton", "--transitions=[[a]]"), ("--transitions ([[a]]) must be a list, ",)),
        (("export", "x", "--output=y", "--dtype=foo"), ("--dtype (foo) must be one of float32, bfloat16, float16;",)),
        (("evaluate", "--model=x"), ("tacit evaluate needs --data;",)),
        (("evaluate", "--model"), ("tacit evaluate: argument --model: expected at least one argument;",)),
        (("report",), ("tacit report needs RUN;",)),
        (("score",), ("tacit score needs file;",)),
        (("score", "a", "b"), ("tacit score: unrecognized arguments: b;",)),
    ],
)
def test_wrong_and_missing_values_are_told_in_one_line(arguments: tuple[str, ...], named: tuple[str, ...]) -> None:
    (message,) = refused(*arguments)
    assert all(word in message for word in named)


def test_one_rank_of_a_node_tells_the_mistake() -> None:
    finished = tacit("trian", RANK="3", LOCAL_RANK="1")
    assert (finished.returncode, finished.stderr) == (2, "")
    told = tacit("trian", RANK="3", LOCAL_RANK="0").stderr  # a file may be missing on the second node only
    assert told.startswith("tacit: error (rank 3): tacit trian: unknown command.")


# Interruption, and streams that are closed


@pytest.mark.parametrize(("command", "code"), [("train", 75), ("doctor", 1)])
def test_an_interrupt_is_told_in_one_line_whatever_is_being_imported(command: str, code: int) -> None:
    loads_slowly = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == {heavy!r}:
            print("importing", file=sys.__stdout__, flush=True)
            try:
                time.sleep(60)
            except KeyboardInterrupt:  # as libraries do that try an import
                raise ImportError(name)
sys.meta_path.insert(0, Slow())
sys.argv = ["tacit", {command!r}, "--config", "recipes/demo.yaml"]
from pipeline.cli.main import entry
entry()
"""
    for heavy in ("jsonargparse", f"pipeline.cli.{command}", f"pipeline.{command}", "torch"):
        process = _interruptible([sys.executable, "-c", loads_slowly.format(heavy=heavy, command=command)])
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        _interrupt(process, code, command)


@pytest.mark.parametrize(("command", "code"), [("train", 75), ("evaluate", 1)])
def test_an_interrupt_of_a_command_is_told_in_one_line(command: str, code: int) -> None:
    sleeps = f"""
import sys, time
import pipeline.cli.{command} as command
from pipeline.cli.main import entry
command.main = lambda argv: (print("begun", flush=True), time.sleep(60))
sys.argv = ["tacit", {command!r}]
entry()
"""
    process = _interruptible([sys.executable, "-c", sleeps])
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    _interrupt(process, code, command)


def _interruptible(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which tests in the background do without
    )


def _interrupt(process: subprocess.Popen[str], code: int, command: str) -> None:
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    hint = ": --resume goes on from the last checkpoint." if command == "train" else ""
    assert (process.returncode, told.splitlines()[-1:]) == (code, [f"tacit: interrupted{hint}"]), told
    assert "Traceback" not in told


LENGTHS = ("--config=recipes/demo.yaml", "--lengths=100,5,5,5")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("data",), ("train", "--help"), ("plan", *LENGTHS), ("plan", "--json", *LENGTHS)]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_failure(arguments: tuple[str, ...], unbuffered: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    finished = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writes)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_closed_stdout_is_no_failure() -> None:
    finished = _run(["sh", "-c", f"{sys.executable} -m pipeline plan {' '.join(LENGTHS)} >&-"])
    assert (finished.returncode, finished.stderr) == (0, "")


# The resolved recipe


def test_print_config_prints_a_recipe(tmp_path: Path) -> None:
    finished = tacit("train", "--print_config", "--optim.lr=3e-4", "--removal.smoothing_lambda", ".inf")
    assert (finished.returncode, finished.stderr) == (0, "")
    printed = yaml.safe_load(finished.stdout)
    assert printed["optim"]["lr"] == 3e-4
    assert printed["removal"]["smoothing_lambda"] == float("inf")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(finished.stdout)
    assert tacit("train", "--config", str(recipe), "--print_config").stdout == finished.stdout
