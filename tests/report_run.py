"""A run directory as a training leaves it, without the training: small, and the same each time."""

import json
from pathlib import Path
from typing import Any

import yaml

LOG_EVERY, STEPS_A_STAGE, NUM_ROWS = 10, 40, 6
QUESTION = "<script>alert('hi')</script> 1 2 * 3 & 4"


def write_run(
    folder: Path,
    removed: tuple[int, ...] = (0, 1, 2, 3),
    *,
    kind: str = "adaptive",
    has_samples: bool = True,
    frontier: bool = False,
    audit: bool = False,
    has_model: bool = True,
) -> Path:
    """Write a run whose stages have removed so many tokens, one after the other; a number can come twice."""
    folder.mkdir(parents=True)
    recipe = {
        "data": {"train": "rows/train.txt", "validation": "rows/validation.txt"},
        "model": {"from_scratch": {"model_type": "gpt2", "n_layer": 2, "n_embd": 64}},
        "removal": {"unit": "token"},
        "schedule": {"kind": kind},
        "run": {"seed": 3, "log_every": LOG_EVERY},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "device": "cpu"}, indent=2))
    metrics: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    last = max(removed)
    for stage, num_removed in enumerate(removed):
        place = {"stage": stage, "num_removed": num_removed}
        first = stage * STEPS_A_STAGE + 1
        if stage:
            norms = {"moment_norm": 0.5 + stage, "second_moment_norm": 0.01 * stage}
            metrics.append({"kind": "reset", "step": first, **place, **norms})
        for step in range(first, first + STEPS_A_STAGE):
            if step % LOG_EVERY and step != first:
                continue
            metrics.append(_train_row(step, first, stage, place))
        end = first + STEPS_A_STAGE - 1
        num_right = NUM_ROWS - (stage == 1) - (stage == len(removed) - 1)
        evaluation = {
            "accuracy": num_right / NUM_ROWS,
            "num_examples": NUM_ROWS,
            "cot_tokens": float(last - num_removed),
        }
        metrics.append({"kind": "evaluation", "step": end, **place, **evaluation})
        metrics.append({"kind": "checkpoint", "step": end, **place, "seconds": 0.5, "requested": False})
        samples += [
            _sample(end, row, right=row < num_right, num_cot_tokens=last - num_removed) for row in range(NUM_ROWS)
        ]
    metrics.append({"kind": "collapse", "step": 80, "stage": 1, "num_removed": 1, "loss": 0.9, "loss_before": 0.2})
    fault = {"loss": None, "grad_norm": None, "rows": [4, 17], "in_a_row": 1, "rolled_back_to": None}
    metrics.append({"kind": "nonfinite", "step": 90, "stage": 2, "num_removed": 2, **fault})
    write_rows(folder / "metrics.jsonl", metrics)
    if has_samples:
        write_rows(folder / "samples.jsonl", samples)
    if has_model:
        (folder / "model").mkdir()
        spec = {"num_removed": last, "removes_all": True, "longest_cot": 3, "step": len(removed) * STEPS_A_STAGE}
        (folder / "model" / "tacit.json").write_text(json.dumps(spec))
    if frontier:
        (folder / "frontier.json").write_text(json.dumps(frontier_of(removed)))
    if audit:
        (folder / "audit.json").write_text(json.dumps(audit_of(folder)))
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def frontier_of(removed: tuple[int, ...]) -> dict[str, Any]:
    """Return what `tacit frontier` would write."""
    points = [
        {
            "model": f"runs/x/stages/removed_{number:04d}",
            "num_removed": number,
            "removes_all": number == max(removed),
            "accuracy": 1.0 - 0.004 * i,
            "num_correct": 250 - i,
            "num_examples": 250,
            "confidence_interval": [0.95 - 0.004 * i, 1.0],
            "cot_tokens": float(max(removed) - number),
            "latency_ms": 20.0 / (1 + i),
            "examples_per_second": 50.0 * (1 + i),
            "speedup": 1.0 + i,
        }
        for i, number in enumerate(sorted(set(removed)))
    ]
    chosen = {"most_accurate": 0, "fastest_within_one_point": min(2, len(points) - 1), "knee": None}
    return {"data": "rows/test.txt", "num_examples": 250, "points": points, "operating_points": chosen}


def audit_of(folder: Path) -> dict[str, Any]:
    """Return what `tacit audit` would write."""
    group = {"value": "2 carries", "num_examples": 40, "num_correct": 38, "accuracy": 0.95}
    group["confidence_interval"] = [0.83, 0.99]
    leak = {"mean_cot_tokens": 0.0, "max_cot_tokens": 0, "num_rows_with_cot": 0, "share_with_cot": 0.0}
    leak["confidence_interval"] = [0.0, 0.015]  # type: ignore[assignment]
    other = {"name": "no_cot", "model": "runs/no_cot/model", "accuracy": 0.26, "confidence_interval": [0.21, 0.32]}
    return {
        "model": str(folder / "model"),
        "data": "rows/test.txt",
        "num_examples": 250,
        "accuracy": 0.988,
        "confidence_interval": [0.965, 0.996],
        "leak": leak,
        "difficulty": {"carries": [group]},
        "out_of_distribution": [{**group, "value": "longer"}],
        "comparisons": [{**other, "only_model": 183, "only_other": 1, "p_value": 1e-40}],
        "verdict": ["Yes, as far as these rows tell."],
        "notes": ["The training rows were not there."],
    }


def _train_row(step: int, first: int, stage: int, place: dict[str, int]) -> dict[str, Any]:
    loss = 2.0 / step**0.5 + (0.8 if stage and step < first + 15 else 0.0)
    return {
        "kind": "train",
        "step": step,
        **place,
        "epoch": step / 100,
        "after_reset": stage > 0 and step == first,
        "loss": loss,
        "token_accuracy": 0.9,
        "lr": 1e-3,
        "grad_norm": 1.0,
        "memory_mib": 700.0,
        "tokens_per_second": 9000.0 + step,
        "examples_per_second": 400.0,
        "mfu": 0.01,
    }


def _sample(step: int, row: int, right: bool, num_cot_tokens: int) -> dict[str, Any]:
    prediction = "8 6 8 0" if right else "8 5 8 0"
    cot = "".join("4 " for _ in range(num_cot_tokens))
    return {
        "step": step,
        "row": row,
        "question": QUESTION if row == 0 else f"{row} 2 * 3 4",
        "answer": "8 6 8 0",
        "prediction": prediction,
        "correct": right,
        "num_cot_tokens": num_cot_tokens,
        "text": f"{cot}#### {prediction}",
    }
