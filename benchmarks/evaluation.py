"""Accuracy evaluation, examples per second: verified decoding against plain decoding of every token.

    python -m benchmarks.evaluation [--repeats 5] [--threads 2]

Both decode the same rows with the same model in turn, and must write the same tokens in every row. On a GPU, sums of
another order may turn two tokens whose logits are nearly equal, so that there the rows that differ are counted.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.baseline_evaluation import baseline_decode
from benchmarks.measure import DEVICE, Section, take_turns, where
from benchmarks.row_lengths import examples_like
from benchmarks.shapes import SHAPES, random_model
from pipeline.answer_spec import AnswerSpec
from pipeline.batching import IGNORE_INDEX, collate
from pipeline.config import DataConfig, FormatConfig, LoraConfig, load_config
from pipeline.decoding import Prompt
from pipeline.evaluation import make_prompts, make_references
from pipeline.examples import ExampleSet, load_examples
from pipeline.layout import SequenceLayout, assemble_row
from pipeline.loss import token_loss_sum
from pipeline.modeling import build_model, build_tokenizer
from pipeline.records import write_records
from pipeline.tasks import Automaton, generate_splits
from pipeline.verification import verified_decode

BATCH_SIZE = 256  # rows of ours in memory at a time, the default of the recipes
DEMO_RECIPE = "recipes/demo.yaml"
DEMO_ROWS, DEMO_LENGTH = 1000, 12
# The task of the demo: a lock with four states, which the digits 7, 8 and 9 turn by 1, 2 and 3.
LOCK = tuple(tuple((state + max(digit - 6, 0)) % 4 for digit in range(10)) for state in range(4))
STEPS_BETWEEN_LOOKS, MOST_STEPS, ENOUGH = 50, 500, 0.99
# Model, task whose lengths its rows have, and CoT tokens removed: what two cores can repeat within a minute.
LARGE = (("GPT-2 Small", "4x4", 47), ("Mistral 60M", "gsm8k", 13))
LARGE_ROWS = 256 if DEVICE.type == "cuda" else 8


@dataclass(frozen=True)
class Case:
    """A model, and rows for it to answer."""

    name: str
    model: PreTrainedModel
    prompts: Sequence[Prompt]
    layout: SequenceLayout
    max_new_tokens: int
    references: dict[str, list[list[int]]]
    """What the rows' answers are said to be, by how good that makes the model."""

    def baseline(self) -> list[list[int]]:
        """Decode every token."""
        return baseline_decode(self.model, self.prompts, self.layout, self.max_new_tokens)

    def verified(self, references: list[list[int]]) -> list[list[int]]:
        """Decode with the references as drafts."""
        return verified_decode(self.model, self.prompts, references, self.layout, self.max_new_tokens, BATCH_SIZE)


def run(repeats: int = 5) -> list[Section]:
    """Measure an accurate and a bad model of each shape.

    Raises:
        AssertionError: If any row is answered differently, on a CPU.
    """
    section = Section(
        "Evaluation",
        f"Examples/s over one generate() call for each batch of 32, median (extremes) of {repeats} turns, "
        f"{where()}. Passes and tokens: through the model, baseline > ours; each token must go "
        f"through it once. Demo: the recipe's own model on full CoT, trained until right, and after "
        f"{STEPS_BETWEEN_LOOKS} steps. The others have random weights: accurate means that the references are what the "
        "model itself writes, bad that they are random. Differing: rows in which other tokens are written.",
    )
    for make_cases in (demo_cases, large_cases):
        for case in make_cases():
            for row in measure(case, repeats):
                section.rows.append(row)
                Console(stderr=True).print(row, highlight=False)
    return [section]


def measure(case: Case, repeats: int) -> Iterator[dict[str, Any]]:
    """Time the baseline and ours, with each of the references, in turns."""
    ours = {kind: lambda given=given: case.verified(given) for kind, given in case.references.items()}
    with counted(case.model) as baseline_count:
        expected = case.baseline()
    counts, differing = {}, {}
    for kind, decode in ours.items():
        with counted(case.model) as counts[kind]:
            differing[kind] = rows_that_differ(decode(), expected)
        if differing[kind] and DEVICE.type == "cpu":
            raise AssertionError(f"{case.name}, {kind}: other tokens than the baseline in rows {differing[kind][:10]}")
    timings = take_turns({"baseline": case.baseline, **ours}, repeats, warm_up=0)  # the comparison was one
    for kind, references in case.references.items():
        agreeing = sum(ids == reference[: len(ids)] for ids, reference in zip(expected, references, strict=True))
        yield {
            "model": case.name,
            "is": kind,
            "rows": len(expected),
            "agreeing": agreeing,
            "differing": len(differing[kind]),
            "ours / baseline": str(timings[kind].speed_up_over(timings["baseline"])),
            "examples/s": len(expected) / timings[kind].median,
            "passes": f"{baseline_count.passes} > {counts[kind].passes}",
            "tokens": f"{baseline_count.tokens:,} > {counts[kind].tokens:,}",
        }


def rows_that_differ(found: list[list[int]], expected: list[list[int]]) -> list[int]:
    """Return the numbers of the rows in which other tokens are written."""
    return [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]


@dataclass
class Count:
    """What went through a model."""

    passes: int = 0
    tokens: int = 0
    """With padding."""


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[Count]:
    """Count a model's passes meanwhile."""
    count = Count()

    def add(_: torch.nn.Module, __: tuple, inputs: dict[str, Any]) -> None:
        count.passes += 1
        count.tokens += inputs["input_ids"].numel()

    hook = model.register_forward_pre_hook(add, with_kwargs=True)
    yield count
    hook.remove()


def demo_cases() -> Iterator[Case]:
    """Train the demo's model on the full CoT until it is right; yield it, and what it was after some steps."""
    config = load_config(DEMO_RECIPE)
    tokenizer = build_tokenizer(config.model)
    with tempfile.TemporaryDirectory() as folder:
        train, test = _demo_rows(Path(folder), config.format, tokenizer)
        end_id = test.layout.end_id
        model = build_model(config.model, LoraConfig(), tokenizer, test.longest_row(), end_id, torch.float32, seed=0)
        model.to(DEVICE)
        model.generation_config = GenerationConfig()
        spec = AnswerSpec(config.format, 0, False, "left", "token", False, 0)
        prompts, max_new_tokens = make_prompts(test, spec)
        references = make_references(test, spec, range(len(test)))

        def case_of(kind: str, of: PreTrainedModel) -> Case:
            return Case("demo", of, prompts, test.layout, max_new_tokens, {kind: references})

        bad = None
        for _ in _train(model, train, config.optim.lr):
            if bad is None:
                bad = copy.deepcopy(model)
            written = case_of("", model).verified(references)
            right = sum(ids == reference[:-1] for ids, reference in zip(written, references, strict=True))
            if right >= ENOUGH * len(references):
                break
        assert bad is not None
        yield case_of("accurate", model)
        yield case_of("bad", bad)


def _demo_rows(folder: Path, row_format: FormatConfig, tokenizer: Any) -> tuple[ExampleSet, ExampleSet]:
    sets = {}
    task = Automaton(LOCK, DEMO_LENGTH)
    for name, records in generate_splits([task], MOST_STEPS * 64, 0, DEMO_ROWS, seed=0).items():
        write_records(folder / f"{name}.txt", records)
        data = DataConfig(cache_dir=str(folder / "cache"))
        sets[name] = load_examples(str(folder / f"{name}.txt"), "", data, row_format, tokenizer)
    return sets["train"], sets["test"]


def _train(model: PreTrainedModel, rows: ExampleSet, lr: float) -> Iterator[None]:
    """Train, and stop to have the model looked at from time to time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    for step in range(MOST_STEPS):
        chosen = rows.take(np.arange(step * 64, step * 64 + 64))
        batch = collate([assemble_row(example, rows.layout) for example in chosen], rows.layout)
        loss, _ = token_loss_sum(model.train(), batch, DEVICE)
        (loss / int((batch.labels != IGNORE_INDEX).sum())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warm_up.step()
        if (step + 1) % STEPS_BETWEEN_LOOKS == 0:
            model.eval()
            yield


def large_cases() -> Iterator[Case]:
    """Yield models of random weights, on rows with the lengths of real ones."""
    for name, task, num_removed in LARGE:
        model = random_model(SHAPES[name]).eval().to(DEVICE)
        model.generation_config = GenerationConfig()
        examples = examples_like(task, model.config.vocab_size, LARGE_ROWS)
        spec = AnswerSpec(FormatConfig(), num_removed, False, "left", "token", False, 0)
        prompts, max_new_tokens = make_prompts(examples, spec)
        own = baseline_decode(model, prompts, examples.layout, max_new_tokens)
        references = {"accurate": own, "bad": make_references(examples, spec, range(len(examples)))}
        yield Case(f"{name}, {task}", model, prompts, examples.layout, max_new_tokens, references)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for section in run(arguments.repeats):
        section.print(Console(width=150))


if __name__ == "__main__":
    main()
