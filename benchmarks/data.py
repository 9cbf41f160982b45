"""Rows read and tokenised, against plain research code; the paper's 808,000 rows, from nothing to a second start.

    python launchers/gpt2_tokenizer_from_package.py models/gpt2-tokenizer
    python -m benchmarks.data [--gpt2 models/gpt2-tokenizer]

Both sides read the same file of 4x4 multiplication, in turn, and must come to the same ids. Ours also checks every row,
cuts it into parts, and writes the cache.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.baseline_data import read_by_part, read_by_row
from benchmarks.loading_memory import Peak
from benchmarks.measure import Section, take_turns
from pipeline.cli.data import main as tacit_data
from pipeline.config import DataConfig, FormatConfig
from pipeline.examples import ExampleSet, load_examples
from pipeline.records import write_lines
from pipeline.tasks import Multiplication, generate_splits
from pipeline.word_tokenizer import build_word_tokenizer

GPT2 = Path("models/gpt2-tokenizer")
TOKENIZERS = {"words": "built-in tokenizer", "gpt2": "GPT-2's BPE"}
NUM_COMPARED, NUM_WHOLE, NUM_SPOT_CHECKS = 5_000, 808_000, 2_000


def run(gpt2: Path = GPT2, repeats: int = 5) -> list[Section]:
    """Measure both tokenizers.

    Args:
        gpt2: Folder of GPT-2's tokenizer.
        repeats: Turns of the comparison.

    Raises:
        AssertionError: If any ids differ from the baseline's.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [compare(Path(folder), gpt2, repeats), measure_whole(Path(folder), gpt2)]


def compare(folder: Path, gpt2: Path, repeats: int) -> Section:
    """Let the two ways take turns on the same rows."""
    path = folder / "compared.txt"
    write_lines(path, generate_splits([Multiplication(4, 4)], NUM_COMPARED, 0, 0, seed=0)["train"].text_lines())
    section = Section(
        "Rows a second, read and tokenised",
        f"{NUM_COMPARED:,} rows of 4x4; times the baseline's, median (extremes) of {repeats} turns. All ids are equal.",
    )
    for name, title in TOKENIZERS.items():
        tokenizer = _tokenizer(name, gpt2)
        expected = read_by_row(path, tokenizer)
        assert read_by_part(path, tokenizer) == expected
        assert _whole_rows(_load(path, folder / f"once_{name}", tokenizer), range(NUM_COMPARED)) == expected
        fresh = (folder / f"{name}_{turn}" for turn in range(1 + repeats))
        timings = take_turns(
            {
                "row": lambda t=tokenizer: read_by_row(path, t),
                "part": lambda t=tokenizer: read_by_part(path, t),
                "ours": lambda t=tokenizer, f=fresh: _load(path, next(f), t),
            },
            repeats,
        )
        section.rows.append(
            {
                "tokenizer": title,
                "over a call a row": str(timings["ours"].speed_up_over(timings["row"])),
                "over a call a part": str(timings["ours"].speed_up_over(timings["part"])),
                "baseline rows/s": round(NUM_COMPARED / timings["row"].median),
                "ours rows/s": round(NUM_COMPARED / timings["ours"].median),
            }
        )
    return section


def measure_whole(folder: Path, gpt2: Path) -> Section:
    """Take the paper's rows from nothing to a second start; every step in a process of its own."""
    section = Section(
        f"{NUM_WHOLE:,} rows of 4x4",
        "Seconds without the imports. Peak: anonymous memory above what the process held before the step; the memory-"
        f"mapped cache is not in it. {NUM_SPOT_CHECKS:,} rows drawn at random have the baseline's ids.",
    )
    _add(section, "generate", _in_a_process(_generate, folder))
    for name, title in TOKENIZERS.items():
        load = (_load_measured, folder / "train.txt", folder / f"whole_{name}", name, gpt2)
        _add(section, f"tokenise and cache, {title}", _in_a_process(*load))
        _add(section, f"start from the cache, {title}", _in_a_process(*load))
        tokenizer = _tokenizer(name, gpt2)
        examples = _load(folder / "train.txt", folder / f"whole_{name}", tokenizer)
        assert len(examples) == NUM_WHOLE
        lines = (folder / "train.txt").read_text().splitlines()
        drawn = np.random.default_rng(0).choice(NUM_WHOLE, NUM_SPOT_CHECKS, replace=False)
        write_lines(folder / "drawn.txt", [lines[number] for number in drawn])
        assert _whole_rows(examples, drawn) == read_by_row(folder / "drawn.txt", tokenizer)
    return section


def _add(section: Section, step: str, figures: tuple[float, int]) -> None:
    seconds, peak = figures
    rows_per_second = f"{NUM_WHOLE / seconds:,.0f}"
    section.rows.append(
        {"step": step, "seconds": round(seconds, 2), "rows/s": rows_per_second, "peak MiB": round(peak / 2**20)}
    )


def _in_a_process(work: Callable[..., tuple[float, int]], *arguments: object) -> tuple[float, int]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _generate(folder: Path) -> tuple[float, int]:
    command = ["multiplication", "--digits", "4x4", "--num_train", str(NUM_WHOLE), "--output_dir", str(folder)]
    with contextlib.redirect_stdout(sys.stderr):
        return _timed(lambda: tacit_data(command))


def _load_measured(path: Path, cache: Path, name: str, gpt2: Path) -> tuple[float, int]:
    tokenizer = _tokenizer(name, gpt2)
    return _timed(lambda: _load(path, cache, tokenizer))


def _timed(work: Callable[[], object]) -> tuple[float, int]:
    """Return seconds, and the peak of anonymous bytes above the beginning."""
    peak, begin = Peak(), time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    return seconds, peak.stop()


def _tokenizer(name: str, gpt2: Path) -> PreTrainedTokenizerBase:
    return build_word_tokenizer() if name == "words" else AutoTokenizer.from_pretrained(gpt2)


def _load(path: Path, cache: Path, tokenizer: PreTrainedTokenizerBase) -> ExampleSet:
    return load_examples(str(path), "train", DataConfig(cache_dir=str(cache)), FormatConfig(), tokenizer)


def _whole_rows(examples: ExampleSet, numbers: Sequence[int] | np.ndarray) -> list[list[int]]:
    first, second = examples.layout.first_separator_ids, examples.layout.second_separator_ids
    return [[*row.question_ids, *first, *row.cot_ids, *second, *row.answer_ids] for row in examples.take(numbers)]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpt2", type=Path, default=GPT2, help=f"Folder of GPT-2's tokenizer (default: {GPT2}).")
    parser.add_argument("--repeats", type=int, default=5, help="Turns of the comparison (default: 5).")
    options = parser.parse_args()
    for section in run(options.gpt2, options.repeats):
        section.print(Console())


if __name__ == "__main__":
    main()
