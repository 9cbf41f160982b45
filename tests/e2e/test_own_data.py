"""Users' own reasoning data through a whole run: graphs in the Coconut project's JSON, and chats."""

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, pipeline

from pipeline.answering import Answerer
from pipeline.cli.main import main
from pipeline.config import Config
from pipeline.config.parsing import parse_command_line
from pipeline.layout import EXTRA_TOKENS
from pipeline.records.chat import conversation_of
from pipeline.scoring import extract_answer
from pipeline.train import train
from tests.chat_style import build_chat_style
from tests.gpt2_style import build_gpt2_style
from tests.tiny import RECIPE, ROOT

KINDS = ["zhorpus", "rempus", "gorpus", "bompus", "fompus", "lempus", "tumpus", "wumpus"]


def graph_row(rng: random.Random) -> dict[str, Any]:
    """Return a question about a chain of facts, in the form and with the further keys of ProsQA."""
    name, num_steps = rng.choice(["Tom", "Fae", "Sally", "Rex"]), rng.randint(2, 4)
    symbols = [name, *rng.sample(KINDS, num_steps + 1)]
    *chain, other = range(num_steps + 2)
    facts = [f"{name} is a {symbols[1]}."]
    facts += [f"Every {symbols[i]} is a {symbols[i + 1]}." for i in chain[1:-1]]
    shown = rng.sample([*facts, f"Every {symbols[other]} is a {symbols[1]}."], len(facts) + 1)
    choices = rng.sample([symbols[chain[-1]], symbols[other]], 2)
    return {
        "question": f"{' '.join(shown)} Is {name} a {choices[0]} or {choices[1]}?",
        "steps": facts,
        "answer": f"{name} is a {symbols[chain[-1]]}.",
        "idx_to_symbol": symbols,
        "edges": [[i, i + 1] for i in chain[:-1]] + [[other, 1]],
        "root": 0,
        "target": chain[-1],
        "neg_target": other,
    }


def read_run(config: Config, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(config.run.output_dir) / name).read_text().splitlines()]


def tiny(folder: Path, *recipes: str, num_positions: int, **settings: object) -> Config:
    """Return shipped recipes for a tiny model from scratch, with the tokenizer that lies in ``folder``."""
    model = {**RECIPE["model"]["from_scratch"], "n_positions": num_positions}
    settings = {
        "model.name_or_path": "",
        "model.from_scratch": json.dumps(model),
        "model.tokenizer": folder / "tokenizer",
        "data.cache_dir": folder / "cache",
        "engine.precision": "fp32",
        "engine.num_threads": 1,
        "optim.lr": "1e-3",
        "optim.global_batch_size": 8,
        "evaluation.num_examples": 8,
        "evaluation.every_stages": 1,
        "run.output_dir": folder / "run",
        **settings,
    }
    files = [f"--config={ROOT / 'recipes' / name}" for name in recipes]
    return parse_command_line([*files, *(f"--{name}={value}" for name, value in settings.items())], "tacit train")[0]


def test_graphs_in_the_form_of_coconut_train_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(0)
    rows = list({row["question"]: row for row in (graph_row(rng) for _ in range(64))}.values())
    for name, part in {"train": rows[:40], "valid": rows[40:50], "test": rows[50:]}.items():
        (tmp_path / f"prosqa_{name}.json").write_text(json.dumps(part))
    texts = [" ".join([row["question"], *row["steps"], row["answer"], "#### 0"]) for row in rows]
    build_gpt2_style().train_new_from_iterator(texts, 330, show_progress=False).save_pretrained(tmp_path / "tokenizer")
    config = tiny(
        tmp_path,
        "graph_reasoning.yaml",
        num_positions=200,
        **{"data.train": tmp_path / "prosqa_train.json", "data.validation": tmp_path / "prosqa_valid.json"},
        **{"schedule.removed_per_epoch": 2, "schedule.final_epochs": 0.6, "run.keep_stages": "[0, 2]"},
    )
    assert config.removal.unit == "step"
    result = train(config)

    metrics = read_run(config, "metrics.jsonl")
    assert sorted({row["num_removed"] for row in metrics if row["kind"] == "train"}) == [0, 1, 2, 3, 4]
    assert [row["num_removed"] for row in metrics if row["kind"] == "evaluation"] == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "run" / "stages").iterdir()) == ["removed_0000", "removed_0002"]
    samples = [row for row in read_run(config, "samples.jsonl") if row["step"] == result.best_step]
    assert [row["answer"] for row in samples] == [row["answer"] for row in rows[40:48]]
    capsys.readouterr()
    arguments = ["--data", str(tmp_path / "prosqa_test.json"), "--num_timed", "1", "--json"]
    assert main(["evaluate", "--model", str(result.model_dir), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["num_examples"] == len(rows[50:])


# Chats


def sum_row(number: int) -> dict[str, Any]:
    """Return a sum with its reasoning; some rows have a system message, or an earlier turn."""
    first, second = 1 + number % 9, 1 + number // 9 % 9
    reasoning = f"{first} + {second}\n\n= {first + second}"
    last = {"role": "assistant", "content": f"<think>\n{reasoning}\n</think>\n\n{first + second}"}
    before = [[], [{"role": "system", "content": "Add."}]][number % 2]
    if number % 3 == 0:
        before = [*before, {"role": "user", "content": "0 + 1"}, {"role": "assistant", "content": "1"}]
    return {"messages": [*before, {"role": "user", "content": f"{first} + {second} ="}, last], "id": number}


def test_a_plain_chat_pipeline_gives_the_answers_that_were_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [sum_row(number) for number in range(81)]
    for name, part in {"train": rows[:64], "validation": rows[64:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    build_chat_style().save_pretrained(tmp_path / "tokenizer")
    config = tiny(
        tmp_path,
        "your_data.yaml",
        "presets/chat.yaml",
        num_positions=400,
        **{"data.train": tmp_path / "train.jsonl", "data.validation": tmp_path / "validation.jsonl"},
        **{"schedule.removed_per_epoch": 8, "schedule.hold_epochs": 0, "schedule.final_epochs": 4, "optim.lr": 3e-3},
        **{"evaluation.num_examples": 17},
    )
    result = train(config)
    samples = [row for row in read_run(config, "samples.jsonl") if row["step"] == result.best_step]
    assert len(samples) == 17 and len({row["text"] for row in samples}) > 3  # or agreement would say little
    assert any(conversation_of(row["question"]) for row in samples)

    ask, tokenizer = pipeline("text-generation", str(result.model_dir)), AutoTokenizer.from_pretrained(result.model_dir)
    most_tokens = max(len(tokenizer(row["answer"], add_special_tokens=False).input_ids) for row in samples) + 1
    for row in samples:
        messages = conversation_of(row["question"]) or [{"role": "user", "content": row["question"]}]
        (answered,) = ask(messages, max_new_tokens=most_tokens + EXTRA_TOKENS)  # as evaluation cuts what does not end
        written = answered["generated_text"][-1]["content"]
        assert written == re.sub(r"<\|\w+\|>", "", row["text"])
        assert extract_answer(written) == row["prediction"]
    ended = [row for row in samples if row["text"] == row["prediction"]]
    assert ended  # by itself, so that no limit of tokens matters
    answerer = Answerer(result.model_dir)
    assert [answerer.answer(row["question"], "text").answer for row in ended] == [row["prediction"] for row in ended]

    # The same rows from a table with names of its own.
    table, sampled = tmp_path / "table.csv", tmp_path / "sampled.jsonl"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Prompt", "Why", "Result"])
        writer.writerows([row["question"], "no\nmatter", row["answer"]] for row in samples)
    capsys.readouterr()
    arguments = ["--model", str(result.model_dir), "--data", str(table), "--samples", str(sampled), "--num_timed", "1"]
    names = ["--columns.question=Prompt", "--columns.cot=Why", "--columns.answer=Result"]
    assert main(["evaluate", *arguments, *names, "--json"]) == 0
    again = [json.loads(line) for line in sampled.read_text().splitlines()]
    assert [row["text"] for row in again] == [row["text"] for row in samples]
