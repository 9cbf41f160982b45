"""Whatever stands on the command line: done, or wrong use told on stderr; never a traceback."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.data import COMMANDS as DATA_COMMANDS
from pipeline.cli.main import COMMANDS, main
from pipeline.config.parsing import FIELD_TYPES
from tests.fuzz.cases import fuzz

# What ends each command before it works: behind any other arguments, these are refused, or only print.
LAST = {
    "train": ["--print_config"],
    "plan": ["--print_config"],
    "preview": ["--print_config"],
    "evaluate": ["--batch_size", "0"],
    "frontier": ["--batch_size", "0"],
    "audit": ["--batch_size", "0"],
    "report": ["--watch", "x"],
    "ask": ["--task", "none"],
    "web": ["--port", "x"],
    "export": ["--stage", "1", "--step", "1"],
    "doctor": ["--config", "missing.yaml"],
    "score": [],
}
DATA_LAST = {
    **{name: ["--exclude", "missing.txt"] for name in DATA_COMMANDS},
    **{name: ["--input", "missing.txt"] for name in ("gsm8k", "convert", "split")},
}
OPTIONS = st.sampled_from(
    [
        *(
            "--help",
            "-h",
            "--json",
            "--overwrite",
            "--resume",
            "--rehearse",
            "--verify",
            "--trust_remote_code",
            "--print_config",
        ),
        *("--config", "--model", "--data", "--samples", "--output", "--base", "--dtype", "--stage", "--step"),
        *("--gpus", "--rows", "--lengths", "--tflops", "--mfu", "--num_removed", "--num_examples", "--num_timed"),
        *("--input", "--output_dir", "--num_train", "--num_validation", "--num_test", "--seed", "--file_format"),
        *("--digits", "--length", "--machine", "--modulus", "--transitions", "--num_operands", "--exclude", "--split"),
        *("--source_format", "--on_bad_row", "--optim.lr", "--model.from_scratch", "--model.from_scratch.x"),
        *("--", "-", "-x", "--jsn", "--optim", "--=", "--.", "---"),
    ]
)
VALUES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0/"), max_size=6) | st.sampled_from(
    [
        *(
            "1",
            "-1",
            "0",
            "1e9",
            "nan",
            "inf",
            "true",
            "null",
            "4x4",
            "2x2-3x3",
            "9999x1",
            "3-8",
            "1-99999999",
            "9" * 5000,
        ),
        *("[[0,1],[1,0]]", "[[0]]", "[]", "{a: 1}", "!!bool x", "&a [*a]", "[" * 500, "0x" + "f" * 5000),
        *(
            "text",
            "jsonl",
            "gsm8k",
            "hub",
            "stop",
            "skip",
            "table",
            "s3",
            "modular_sum",
            "bfloat16",
            "100,5,5,5",
            "1,1",
        ),
        *(
            "missing.txt",
            "missing.jsonl",
            "missing.yaml",
            "a" * 300 + ".txt",
            "out.txt",
            "out.csv",
            ".",
            "a\nb",
            "\udcff.txt",
        ),
    ]
)
ARGUMENTS = (
    OPTIONS | VALUES | st.builds("{}={}".format, OPTIONS, VALUES) | st.sampled_from([f"--{n}" for n in FIELD_TYPES])
)


@pytest.fixture(scope="module", autouse=True)
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


def run(argv: list[str]) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr; both as strict about characters as a shell's."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stopped:
            assert isinstance(stopped.code, int)
            code = stopped.code
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return code, *texts


def check(argv: list[str]) -> None:
    code, out, err = run(argv)
    assert code in (0, 2)
    assert "Traceback" not in out + err
    assert list(Path().iterdir()) == []
    if code == 2:
        assert err.strip() or argv in ([], ["data"])  # which show what there is
    else:
        assert out.strip()


def test_every_command_has_arguments_that_end_it() -> None:
    assert set(LAST) | {"data"} == set(COMMANDS)


@fuzz
@given(st.sampled_from(sorted(LAST)), st.lists(ARGUMENTS, max_size=5))
def test_any_arguments_of_a_command(name: str, arguments: list[str]) -> None:
    check([name, *arguments, *LAST[name]])


@fuzz
@given(st.sampled_from(sorted(DATA_LAST)), st.lists(ARGUMENTS, max_size=5))
def test_any_arguments_of_a_data_command(name: str, arguments: list[str]) -> None:
    check(["data", name, *arguments, *DATA_LAST[name]])


SIZES = ("4x4", "2x2-3x3", "1x1-9999x9999", "99999999x1", "9" * 5000 + "x1", "3", "3-8", "1-99999999", "9" * 5000)
NUMBERS = ("0", "1", "3", "-1", "99999999", "9" * 5000, "1e3", "0x" + "f" * 5000)
TABLES = (
    "[[0,1],[1,0]]",
    "[[0]]",
    "[]",
    "[[]]",
    "[[9]]",
    "[[0],[1,2]]",
    "[[" + "9" * 5000 + "]]",
    "[[0x" + "f" * 5000 + "]]",
    "!!bool x",
    "[" * 500,
)
NAMES = (
    "out.txt",
    "out.jsonl",
    "out.csv",
    ".",
    "",
    "a" * 245 + ".txt",
    "a" * 300 + ".txt",
    "missing/out.txt",
    "\udcff.txt",
)
# Each option with values that are nearly right.
NEEDED = {
    "multiplication": {"--digits": SIZES, "--output_dir": NAMES},
    "addition": {"--digits": SIZES, "--num_operands": NUMBERS, "--output_dir": NAMES},
    "parity": {"--length": SIZES, "--output_dir": NAMES, "--num_train": NUMBERS},
    "automaton": {"--machine": ("modular_sum",), "--modulus": NUMBERS, "--length": SIZES, "--output_dir": NAMES},
    "automaton ": {"--machine": ("table",), "--transitions": TABLES, "--length": SIZES, "--output_dir": NAMES},
    "gsm8k": {"--output": NAMES},
    "convert": {
        "--output": NAMES,
        "--source_format": ("auto", "text", "json", "csv", "parquet", "gsm8k", "xml"),
        "--columns.answer": ("answer", "cot", "", "é", "\udcff", "{class_path: os.system}"),
    },
    "split": {"--output_dir": NAMES, "--num_validation": NUMBERS, "--num_test": NUMBERS},
}


@fuzz
@given(st.sampled_from(sorted(NEEDED)), st.data())
def test_any_values_of_a_data_command(name: str, data: st.DataObject) -> None:
    arguments = [f"{option}={data.draw(st.sampled_from(values), option)}" for option, values in NEEDED[name].items()]
    check(["data", name.strip(), *arguments, *DATA_LAST[name.strip()]])


@fuzz
@given(
    st.lists(ARGUMENTS | st.sampled_from(["trian", "data", "score"]), max_size=3).filter(lambda a: a[:1] != ["doctor"])
)
def test_any_command(argv: list[str]) -> None:
    check(argv)
