"""Token lengths of real rows, which is all that speed depends on: kept as numbers, so that a benchmark needs no data.

    python -m benchmarks.row_lengths --tokenizer FOLDER --gsm8k train.jsonl    # writes row_lengths.json anew

The file holds, for 4x4 and 9x9 multiplication and for 256 GSM8K training rows (equations as chain of thought), each
row's tokens in question, CoT and answer, as GPT-2's tokenizer counts them in the paper's format.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.examples import ExampleSet
from pipeline.layout import SequenceLayout
from pipeline.token_table import SCHEMA

FILE = Path(__file__).with_suffix(".json")
NUM_GSM8K_ROWS = 256
SEPARATOR, END = 1, 0


def examples_like(name: str, vocabulary_size: int, num_rows: int, seed: int = 0) -> ExampleSet:
    """Return rows of random ids with the lengths of real ones.

    Args:
        name: ``4x4``, ``9x9`` or ``gsm8k``.
        vocabulary_size: Ids are below it.
        num_rows: Rows, taken in turn from the file.
        seed: Of the ids.
    """
    generator = np.random.default_rng(seed)
    lengths = json.loads(FILE.read_text(encoding="utf-8"))[name]
    columns: dict[str, list] = {key: [] for key in SCHEMA.names}
    for i in range(num_rows):
        parts = [generator.integers(2, vocabulary_size, length).tolist() for length in lengths[i % len(lengths)]]
        for key, ids in zip(("question_ids", "cot_ids", "answer_ids"), parts, strict=True):
            columns[key].append(ids)
        columns["cot_step_lengths"].append([len(parts[1])])
        columns["question"].append(str(i))
        columns["answer"].append(str(i))
    return ExampleSet(pa.table(columns, SCHEMA), SequenceLayout((SEPARATOR,), (SEPARATOR,), end_id=END, pad_id=END))


def main() -> None:
    """Count the lengths with real data and a real tokenizer, and write them down."""
    from transformers import AutoTokenizer

    from pipeline.config import DataConfig, FormatConfig
    from pipeline.examples import load_examples
    from pipeline.records import read_records, write_records
    from pipeline.tasks import Multiplication

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True, help="GPT-2's, as a Hugging Face folder.")
    parser.add_argument("--gsm8k", required=True, help="GSM8K's own training file.")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in (4, 9):
            path = Path(folder) / f"{size}x{size}.txt"
            write_records(path, [Multiplication(size, size).record_at(7**size)])
        records = read_records(arguments.gsm8k, source_format="gsm8k", on_bad_row="skip", bad_rows=[])
        rows = [record for record in records if record.steps]
        order = np.random.default_rng(0).permutation(len(rows))[:NUM_GSM8K_ROWS]
        write_records(Path(folder) / "gsm8k.txt", [rows[i] for i in order])
        for name in ("4x4", "9x9", "gsm8k"):
            config = DataConfig(cache_dir=folder)
            rows_of = load_examples(str(Path(folder) / f"{name}.txt"), "", config, FormatConfig(), tokenizer)
            columns = [rows_of.lengths(part).tolist() for part in ("question_ids", "cot_ids", "answer_ids")]
            found[name] = list(zip(*columns, strict=True))
    FILE.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
