"""The rows of an audit: those that the model was not trained on, and probes unlike its training rows."""

import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from pipeline.answer_spec import load_spec
from pipeline.config import DataConfig, load_config
from pipeline.decoding import room_for
from pipeline.difficulty import sizes_of
from pipeline.errors import UserError
from pipeline.evaluation import Contestant, make_prompts, make_references
from pipeline.examples import ExampleSet, load_examples
from pipeline.modeling.saved import load_tokenizer
from pipeline.records import write_records
from pipeline.tasks import Multiplication, generate_splits

logger = logging.getLogger(__name__)

PROBE_ROWS = 200
PROBE_SEED = 0


def training_questions(run_dir: Path, tokenizer: PreTrainedTokenizerBase) -> pa.ChunkedArray:
    """Return the questions that a run trained on.

    Args:
        run_dir: Its recipe names the rows.
        tokenizer: Of the run's model; it decides which rows were too long.

    Raises:
        UserError: If recipe or rows cannot be read.
    """
    config = load_config(run_dir / "recipe.yaml")
    data = config.data
    examples = load_examples(data.train, data.train_split, data, config.format, tokenizer)
    return examples.head(data.num_train).questions()


def check_unseen(run_dir: Path, folder: Path, data: DataConfig, trust_remote_code: bool = False) -> None:
    """Refuse rows that a run was trained on; where its training rows are not to be had, the log says so.

    Args:
        run_dir: The run.
        folder: A model of it.
        data: Names the rows as ``validation``, and says how they are read.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        UserError: If any of them was.
    """
    tokenizer = load_tokenizer(folder, trust_remote_code)
    examples = load_examples(data.validation, data.validation_split, data, load_spec(folder).format, tokenizer)
    try:
        trained_on = training_questions(run_dir, tokenizer)
    except UserError as error:
        logger.warning("whether the run was trained on these rows could not be checked: %s", error)
        return
    if num_seen := len(examples) - len(unseen_rows(examples, trained_on)):
        raise UserError(
            f"--data ({data.validation}): {num_seen} of its {len(examples)} questions are training questions; give "
            "rows that the run has not seen."
        )


def unseen_rows(examples: ExampleSet, trained_on: pa.ChunkedArray | None) -> np.ndarray:
    """Return the numbers of the rows whose question is not among those trained on; of all where these are unknown."""
    if trained_on is None:
        return np.arange(len(examples))
    return np.flatnonzero(~pc.is_in(examples.questions(), value_set=pc.unique(trained_on)).to_numpy())


def probes_of(
    contestant: Contestant,
    trained_on: pa.ChunkedArray | None,
    files: Sequence[str],
    data: DataConfig,
    num_examples: int | None,
    notes: list[str],
) -> list[tuple[str, Contestant]]:
    """Return the model with rows unlike those it was trained on: a name and a contestant for each kind.

    Rows of multiplication are made in two other sizes: one digit less in each number than the smallest of the rows
    given and trained on, and one more than the largest; ``PROBE_ROWS`` of each, drawn with ``PROBE_SEED``.

    Args:
        contestant: The model, with rows like those it was trained on.
        trained_on: Questions trained on, if they are known.
        files: More rows, as the user names them.
        data: How files are read.
        num_examples: Rows used of a file.
        notes: Is told of rows that are left out.

    Raises:
        UserError: If a file cannot be read.
    """
    questions = contestant.examples.rows["question"]
    sizes = multiplied_sizes(questions)
    if sizes and trained_on is not None:
        sizes |= multiplied_sizes(trained_on)
    probes = []
    with tempfile.TemporaryDirectory() as temporary:
        for num_digits in neighbouring_sizes(sizes):
            path = Path(temporary) / "{}x{}.txt".format(*num_digits)
            task = Multiplication(*num_digits)
            num_rows = min(PROBE_ROWS, task.num_questions())
            write_records(path, generate_splits([task], 0, 0, num_rows, PROBE_SEED)["test"])
            source = replace(data, validation=str(path), source_format="text")
            probes.append((path.stem, _with_rows(contestant, source)))
    probes += [(file, _with_rows(contestant, replace(data, validation=file))) for file in files]
    kept = []
    for name, probe in probes:
        unseen = unseen_rows(probe.examples, trained_on)[:num_examples]
        askable = unseen[has_positions(probe)[unseen]]
        if dropped := len(unseen) - len(askable):
            notes.append(f"{name}: {dropped} of {len(unseen)} rows left out, {_why_no_positions(probe)}.")
        if len(askable):
            kept.append((name, replace(probe, examples=probe.examples.select(askable))))
    return kept


def multiplied_sizes(questions: pa.ChunkedArray) -> set[tuple[int, ...]]:
    """Return the digits of both numbers of each kind of multiplication among questions."""
    shapes = pc.unique(pc.replace_substring_regex(questions, "[0-9]", "0")).to_pylist()  # few, however many rows
    found = (sizes_of(shape) for shape in shapes if "*" in shape)
    return {sizes for sizes, _ in filter(None, found)}


def neighbouring_sizes(sizes: Collection[tuple[int, ...]]) -> list[tuple[int, int]]:
    """Return one digit less than the fewest of each number, where that leaves any, and one more than the most."""
    if not sizes:
        return []
    first, second = zip(*sizes, strict=True)
    smaller, larger = (min(first) - 1, min(second) - 1), (max(first) + 1, max(second) + 1)
    return [smaller, larger] if min(smaller) > 0 else [larger]


def _with_rows(contestant: Contestant, data: DataConfig) -> Contestant:
    examples = load_examples(data.validation, data.validation_split, data, contestant.spec.format, contestant.tokenizer)
    return replace(contestant, examples=examples)


def has_positions(probe: Contestant) -> np.ndarray:
    """Return at which rows the model has positions for all that a right answer takes, (num_rows,) booleans."""
    prompts, _ = make_prompts(probe.examples, probe.spec)
    references = make_references(probe.examples, probe.spec, range(len(probe.examples)))
    # The last token, which ends the row, is written but not read.
    enough = np.array(
        [room_for(probe.model, prompt) >= len(ids) - 1 for prompt, ids in zip(prompts, references, strict=True)]
    )
    if probe.spec.built_in_shift:
        return enough & (probe.examples.lengths("question_ids") == probe.spec.question_length)
    return enough


def _why_no_positions(probe: Contestant) -> str:
    if probe.spec.built_in_shift:
        return (
            f"the model has kept positions built in for questions of {probe.spec.question_length} tokens; a model "
            "under stages/ can be asked others"
        )
    return f"longer than the model's {probe.model.config.max_position_embeddings} positions"
