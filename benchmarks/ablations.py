"""The paper's ablations in small: 3-digit by 2-digit multiplication, every variant on as many rows, with several seeds.

    python -m benchmarks.ablations [--seeds 0 1 2] [--variants baseline right_side ...] [--jobs 2]

Each run is `recipes/ablations_3x2_cpu.yaml` with the one change that its name says, in `runs/ablations/`. Cut short,
the same command goes on where it was. The table is Markdown, on standard output; its accuracies are on test rows.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pipeline.report.run import Row, Run, read_run

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/ablations_3x2_cpu.yaml"
DATA, RUNS = Path("data/multiplication_3x2"), Path("runs/ablations")
TACIT = (sys.executable, "-m", "pipeline")
NUM_TRAIN = 60_000  # of 81,000 questions
ADAPTIVE = ("--schedule.kind", "adaptive")
NUMBER_AT_A_TIME = (*ADAPTIVE, "--schedule.adaptive.stops", "[4]")
ALL_AT_ONCE = (*ADAPTIVE, "--schedule.adaptive.removed_per_stage", "10")
IMPATIENT = (*ADAPTIVE, "--schedule.adaptive.max_steps", "600")
# GPT-2's layers as GPT-NeoX has them, with rotary positions in place of learned ones. One thing more differs: GPT-2
# begins with smaller weights where a layer adds to what it was given.
ROTARY = {
    "model_type": "gpt_neox",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1.0},
    "use_parallel_residual": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.08,
    "hidden_act": "gelu_pytorch_tanh",
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}
# Positions are kept from the left only, so the right side is to be compared with the line before it.
VARIANTS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "no_reset": ("--optim.reset_at_stage", "false"),
    "no_smoothing": ("--removal.smoothing_lambda", ".inf"),
    "pace_2x": ("--schedule.removed_per_epoch", "4.69"),
    "pace_4x": ("--schedule.removed_per_epoch", "9.38"),
    "adaptive": ADAPTIVE,
    "number_at_a_time": NUMBER_AT_A_TIME,
    "number_earlier_rows": (*NUMBER_AT_A_TIME, "--removal.earlier_share", "0.5"),
    "all_at_once": ALL_AT_ONCE,
    "all_earlier_rows": (*ALL_AT_ONCE, "--removal.earlier_share", "0.5"),
    "adaptive_impatient": IMPATIENT,
    "adaptive_back": (*IMPATIENT, "--schedule.adaptive.on_stall", "back"),
    "no_warmup": ("--optim.reset_warmup_steps", "0"),
    "rotary": ("--model.from_scratch", json.dumps(ROTARY)),
    "positions_not_kept": ("--removal.keep_positions", "false"),
    "right_side": ("--removal.keep_positions", "false", "--removal.side", "right"),
    "no_cot": ("--schedule.kind", "no_cot"),
    "explicit_cot": ("--schedule.kind", "explicit_cot"),
}
LEARNED = 0.95  # validation accuracy without any CoT at which a run counts as having learned
FALL = 0.1  # of validation accuracy from one evaluation to the next that counts as a dip


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    accuracy: float
    """Of the kept model, on test rows."""
    rows_needed: int | None
    """Training rows seen until ``LEARNED``; None if it never was."""
    num_dips: int
    num_recovered: int
    """Dips after which accuracy came back, within ``FALL``, to where it was."""


def main() -> int:
    """Run what is missing, print the table, and return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS), metavar="NAME")
    parser.add_argument("--jobs", type=int, default=2, help="Runs at once, of one thread each.")
    options = parser.parse_args()
    if not (ROOT / DATA / "train.txt").is_file():
        _tacit("data", "multiplication", "--digits", "3x2", "--num_train", str(NUM_TRAIN), "--output_dir", str(DATA))
    jobs = [(name, seed) for seed in options.seeds for name in options.variants]
    with ThreadPoolExecutor(options.jobs) as pool:
        outcomes = dict(zip(jobs, pool.map(lambda job: outcome_of(*job), jobs), strict=True))
    print(table({name: [outcomes[name, seed] for seed in options.seeds] for name in options.variants}))
    return 0


def outcome_of(name: str, seed: int) -> Outcome:
    """Train a variant, or finish it, and ask its model the test rows."""
    folder = RUNS / f"{name}_seed{seed}"
    settings = ["--run.seed", str(seed), "--run.output_dir", str(folder), *VARIANTS[name]]
    _tacit("train", "--config", RECIPE, "--resume", "--quiet", *settings)
    evaluated = _tacit("evaluate", "--model", str(folder / "model"), "--data", str(DATA / "test.txt"), "--json")
    return outcome(read_run(ROOT / folder), json.loads(evaluated)["accuracy"])


def outcome(run: Run, accuracy: float) -> Outcome:
    """Sum a finished run up."""
    last = max(row["num_removed"] for row in run.evaluations)
    learned = [row["step"] for row in run.evaluations if row["num_removed"] == last and row["accuracy"] >= LEARNED]
    dips = dips_of(run.evaluations)
    return Outcome(
        accuracy,
        min(learned) * run.setting("optim.global_batch_size") if learned else None,
        len(dips),
        sum(dips),
    )


def dips_of(evaluations: Sequence[Row]) -> list[bool]:
    """Return for each dip whether accuracy came back."""
    dips: list[bool] = []
    height, is_down = 0.0, False  # accuracy before the dip, or at present
    for accuracy in (row["accuracy"] for row in evaluations):
        if accuracy >= height - FALL:
            if is_down:
                dips[-1] = True
            height, is_down = accuracy, False
        elif not is_down:
            dips.append(False)
            is_down = True
    return dips


def table(outcomes: dict[str, list[Outcome]]) -> str:
    """Return a Markdown table, a line for each variant."""
    lines = [
        "| variant | accuracy, mean (range) | rows until 95 % without CoT | dips, recovered |",
        "|---|---|---|---|",
    ]
    for name, runs in outcomes.items():
        accuracies = [100 * run.accuracy for run in runs]
        needed = [f"{run.rows_needed:,}" if run.rows_needed else "never" for run in runs]
        dips = ", ".join(f"{run.num_dips}/{run.num_recovered}" for run in runs)
        spread = f"{mean(accuracies):.1f} ({min(accuracies):.1f}-{max(accuracies):.1f})"
        lines.append(f"| {name.replace('_', ' ')} | {spread} | {', '.join(needed)} | {dips} |")
    return "\n".join(lines)


def _tacit(*arguments: str) -> str:
    return subprocess.run([*TACIT, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
