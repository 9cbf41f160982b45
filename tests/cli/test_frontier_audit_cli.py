"""`tacit frontier` and `tacit audit` as a user calls them, on runs that were really trained."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.answer_spec import load_spec
from pipeline.cli.main import main
from pipeline.records import write_records
from pipeline.tasks import Automaton, generate_splits
from pipeline.train import train
from tests.forked import tacit
from tests.tiny import RECIPE, ROOT, free_port, shell_environment, tiny_config

LAUNCHER = [str(Path(sys.executable).parent / "deepspeed"), "--master_port", str(free_port()), "--num_gpus", "2"]
LAUNCHER += ["--no_local_rank", "--module", "pipeline"]
LOCK = tuple(tuple((state + max(digit - 6, 0)) % 4 for digit in range(10)) for state in range(4))


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on the lock task that kept stages, one of No CoT, and 60 unseen rows: half-learned models."""
    folder = tmp_path_factory.mktemp("lock")
    overrides: dict[str, Any] = {
        "model__from_scratch": {**RECIPE["model"]["from_scratch"], "n_embd": 32, "initializer_range": 0.02},
        "optim__lr": 5e-3,
        "schedule": {"removed_per_epoch": 4, "hold_epochs": 1, "final_epochs": 1},
        "engine__micro_batch_tokens": 400,
        "optim__global_batch_size": 16,
    }
    configs = [
        tiny_config(folder, run__keep_stages=[0, 2, 4], **overrides),
        tiny_config(folder, run__output_dir=f"{folder}/no_cot", **{**overrides, "schedule": {"kind": "no_cot"}}),
    ]
    for name, rows in generate_splits([Automaton(LOCK, 4)], 640, 20, 60, seed=0).items():
        write_records(folder / f"{name}.txt", rows)
    for config in configs:
        train(config)
    return folder


@pytest.fixture(scope="module")
def frontier(lock: Path) -> dict[str, Any]:
    """The frontier of the run, measured through the shell."""
    options = ["--data", str(lock / "test.txt"), "--num_timed", "3", "--json"]
    done = tacit("frontier", lock / "run", *options, HOME=str(lock), NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("of 60 right") == 3, "each stage is told of as it is evaluated"
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def cache(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands in this process keep their caches where those in the shell do."""
    monkeypatch.setenv("HOME", str(lock))


def _evaluate(capsys: pytest.CaptureFixture[str], test: Path, models: list[str], *more: str) -> list[dict[str, Any]]:
    assert main(["evaluate", "--model", *models, "--data", str(test), "--num_timed", "1", "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def _answers_at_once(folder: Path, test: Path) -> list[bool]:
    """Return which rows plain Transformers answers right when nothing but the answer may come behind `####`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    right = []
    for line in test.read_text().splitlines():
        prompt = tokenizer(f"{line.partition('||')[0]} = ####", return_tensors="pt")
        written = model.generate(**prompt, max_new_tokens=2, do_sample=False)[0, prompt.input_ids.shape[1] :]
        right.append(tokenizer.decode(written) == f"{line.rpartition('#### ')[2]} <eos>")
    return right


def test_the_frontier_agrees_with_evaluate(
    lock: Path, frontier: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((lock / "run" / "frontier.json").read_text()) == frontier
    points = frontier["points"]
    assert [(point["num_removed"], point["removes_all"]) for point in points] == [(0, False), (2, False), (4, True)]
    # The stage kept at 4 gives way to model/, which validation rows chose.
    assert [Path(point["model"]).name for point in points] == ["removed_0000", "removed_0002", "model"]
    evaluated = _evaluate(capsys, lock / "test.txt", [point["model"] for point in points])
    for point, expected in zip(points, evaluated, strict=True):
        for name in ("accuracy", "num_correct", "num_examples", "confidence_interval", "cot_tokens"):
            assert point[name] == expected[name]
        assert point["latency_ms"] == pytest.approx(1000 / point["examples_per_second"])
        assert point["speedup"] == pytest.approx(points[0]["latency_ms"] / point["latency_ms"])
    assert len({point["accuracy"] for point in points}) > 1  # or agreement would say little
    best = max(point["accuracy"] for point in points)
    assert points[frontier["operating_points"]["most_accurate"]]["accuracy"] == best


@pytest.mark.slow
def test_the_frontier_on_two_ranks_and_one_model_at_a_time(lock: Path, frontier: dict[str, Any]) -> None:
    options = ["--data", str(lock / "test.txt"), "--num_timed", "2", "--json", "--one_at_a_time"]
    command = [*LAUNCHER, "frontier", str(lock / "run"), *options]
    environment = shell_environment(PYTHONPATH=str(ROOT), HOME=str(lock), NO_COLOR="1")
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith('{"data"'))
    points = json.loads(line)["points"]
    assert [point["accuracy"] for point in points] == [point["accuracy"] for point in frontier["points"]]


def test_quiet_tells_of_no_model(
    lock: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for options, num_told in ((["--quiet"], 0), ([], 1)):
        caplog.clear()
        _evaluate(capsys, lock / "test.txt", [str(lock / "run")], *options)  # a run stands for its best model
        assert len([record for record in caplog.records if "of 60 right" in record.message]) == num_told


def test_the_table_of_a_frontier(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(lock / "test.txt"), "--num_timed", "1", "--num_examples", "7"]
    assert main(["frontier", str(lock / "run"), *options]) == 0
    printed = capsys.readouterr().out
    assert "7 unseen questions" in printed
    assert "4 (all)" in printed and "most accurate" in printed


def test_an_audit_agrees_with_evaluate(
    lock: Path, frontier: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    test, samples = lock / "test.txt", lock / "samples.jsonl"
    arguments = ["--data", test, "--no_cot", lock / "no_cot", "--json"]
    done = tacit("audit", lock / "run", *arguments, HOME=str(lock), NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((lock / "run" / "audit.json").read_text()) == found
    run_dir = lock / "run"
    model, explicit, no_cot = run_dir / "model", run_dir / "stages" / "removed_0000", lock / "no_cot" / "model"
    assert found["model"] == str(model) and found["num_contaminated"] == 0
    assert found["accuracy"] == frontier["points"][2]["accuracy"]
    assert found["leak"]["mean_cot_tokens"] == frontier["points"][2]["cot_tokens"]

    _evaluate(capsys, test, [str(model), str(explicit), str(no_cot)], "--samples", str(samples))
    right: dict[str, list[bool]] = {}
    for row in map(json.loads, samples.read_text().splitlines()):
        right.setdefault(row["model"], []).append(row["correct"])
    others = {other["name"]: other for other in found["comparisons"]}
    assert others.keys() == {"no_cot", "explicit_cut_off", "explicit"}
    for name, folder in (("no_cot", no_cot), ("explicit", explicit)):
        pairs = list(zip(right[str(model)], right[str(folder)], strict=True))
        assert others[name]["accuracy"] == sum(right[str(folder)]) / 60
        assert others[name]["only_model"] == pairs.count((True, False))
        assert others[name]["only_other"] == pairs.count((False, True))
    # What the CoT was for: without it, explicit CoT does not do what it can.
    assert others["explicit_cut_off"]["accuracy"] < others["explicit"]["accuracy"]
    assert others["explicit_cut_off"]["model"] == str(explicit)
    assert others["explicit_cut_off"]["accuracy"] == sum(_answers_at_once(explicit, test)) / 60

    rows = [line.rpartition("#### ")[2] for line in test.read_text().splitlines()]
    assert sum(group["num_examples"] for group in found["difficulty"]["cot_tokens"]) == len(rows)
    assert found["difficulty"]["cot_tokens"][0]["value"] == "4"
    assert "digits" not in found["difficulty"] and found["out_of_distribution"] == []
    assert found["verdict"][0]


def test_cut_off_asks_for_the_answer_alone(lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A model that answers at once, given out as one of explicit CoT: cut off, it still answers.
    disguised, test = tmp_path / "disguised", lock / "test.txt"
    shutil.copytree(lock / "run" / "model", disguised)
    spec = load_spec(disguised)
    replace(spec, num_removed=0, removes_all=False).save(disguised)
    arguments = ["audit", str(lock / "run"), "--data", str(test), "--explicit", str(disguised), "--json"]
    assert main(arguments) == 0
    cut_off, explicit = json.loads(capsys.readouterr().out)["comparisons"]
    assert (cut_off["name"], explicit["name"]) == ("explicit_cut_off", "explicit")
    assert cut_off["accuracy"] == sum(_answers_at_once(disguised, test)) / 60 > 0


def test_training_questions_and_rows_too_long_are_left_out(
    lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, unseen = ((lock / f"{name}.txt").read_text().splitlines() for name in ("train", "test"))
    (tmp_path / "mixed.txt").write_text("\n".join([unseen[0], trained[5], trained[9], *unseen[1:4]]))
    write_records(tmp_path / "longer.txt", generate_splits([Automaton(LOCK, 5)], 0, 0, 11, seed=1)["test"])
    with (tmp_path / "longer.txt").open("a") as file:
        file.write(f"{'1 ' * 37}1||0 #### 0\n")  # 38 digits and two separators take all 40 positions
    options = ["--data", str(tmp_path / "mixed.txt"), "--out_of_distribution", str(tmp_path / "longer.txt"), "--json"]
    assert main(["audit", str(lock / "run"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_contaminated"], found["num_examples"]) == (2, 4)
    assert any("2 rows of" in note and "training questions" in note for note in found["notes"])
    (group,) = found["out_of_distribution"]
    assert (group["value"], group["num_examples"]) == (str(tmp_path / "longer.txt"), 11)
    assert any("1 of 12 rows left out, longer than the model's 40 positions" in note for note in found["notes"])
    assert found["verdict"][0].startswith(("Open", "Not"))  # nobody has said what No CoT does

    (tmp_path / "seen.txt").write_text("\n".join(trained[:3]))
    assert main(["audit", str(lock / "run"), "--data", str(tmp_path / "seen.txt")]) == 2
    assert "all its questions are training questions" in capsys.readouterr().err

    # A model that was carried elsewhere cannot be held against its training rows; it is audited all the same.
    shutil.copytree(lock / "run" / "model", tmp_path / "elsewhere")
    assert main(["audit", str(tmp_path / "elsewhere"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_contaminated"] is None and found["num_examples"] == 6
    assert any("no run directory" in note for note in found["notes"])


def test_multiplication_is_probed_in_other_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny_config(tmp_path, run__keep_stages=[4], removal__keep_positions=True)
    train(config)
    data = ["--data", str(tmp_path / "test.txt")]
    assert main(["audit", str(tmp_path / "run"), *data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["value"] for group in found["difficulty"]["digits"]] == ["2x2"]
    assert sum(group["num_examples"] for group in found["difficulty"]["carries"]) == 9
    # model/ has its positions built in for questions of 2 x 2 digits; the stage has the whole table.
    assert found["out_of_distribution"] == [] and found["comparisons"] == []
    assert sum("built in for questions of 5 tokens" in note for note in found["notes"]) == 2
    assert main(["audit", str(tmp_path / "run" / "stages" / "removed_0004"), *data]) == 0
    printed = capsys.readouterr().out
    assert "1x1" in printed and "3x3" in printed and "--explicit not given" in printed
    found = json.loads((tmp_path / "run" / "stages" / "removed_0004" / "audit.json").read_text())
    assert [(group["value"], group["num_examples"]) for group in found["out_of_distribution"]] == [
        ("1x1", 81), ("3x3", 200),
    ]  # fmt: skip


def test_a_model_without_its_tokenizer_is_not_asked(
    lock: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(lock / "run" / "model", tmp_path / "model")
    for path in (tmp_path / "model").glob("tokenizer*"):
        path.unlink()
    for arguments in (
        ["evaluate", "--model", str(tmp_path / "model"), "--data", str(lock / "test.txt")],
        ["export", str(tmp_path / "model"), "--output", str(tmp_path / "exported")],
        ["ask", str(tmp_path / "model"), "--question", "1 2 3 4"],
    ):
        assert main(arguments) == 2
        assert "no tokenizer could be loaded (its vocabulary is empty)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frontier", "{lock}/no_cot", "--data", "{lock}/test.txt"], "run.keep_stages"),
        (["frontier", "{lock}/nowhere", "--data", "{lock}/test.txt"], "no such run directory"),
        (["frontier", "{lock}/run", "--data", "{lock}/nowhere.txt"], "nowhere.txt"),
        (["frontier", "{lock}/run", "--data", "x", "--num_timed", "0"], "--num_timed (0) must be at least 1"),
        (["frontier", "{lock}/run", "--data", "x", "--one_at_time"], "Did you mean --one_at_a_time?"),
        (["frontier", "{lock}/run", "--data", "{lock}/train.txt"], "640 of its 640 questions are training questions"),
        (["evaluate", "--model", "{lock}/run", "--data", "x", "--samples", "{lock}"], "a folder stands where"),
        (
            ["evaluate", "--model", "{lock}/run", "--data", "x", "--samples", "{lock}/test.txt/x"],
            "cannot be written to",
        ),
        (
            ["evaluate", "--model", "{lock}/run", "--data", "{lock}/test.txt", "--samples", "{lock}/test.txt"],
            "--samples ({lock}/test.txt) is the file of --data",
        ),
        (["frontier", "{lock}/run", "--data", "{lock}/test.txt", "--split", "test"], "is a file, and only data sets"),
        (
            ["evaluate", "--model", "{lock}/run", "--data", "{lock}/test.txt", "--columns.cot", "why"],
            "--columns.cot (why): {lock}/test.txt is text",
        ),
        (["report", "{lock}/run", "--output", "{lock}/train.txt"], "let its name end in .html"),
        (["report", "{lock}/run", "--figures", "{lock}/train.txt"], "is a file; name a folder"),
        (["audit", "{lock}", "--data", "{lock}/test.txt"], "holds no model"),
        (["audit", "{lock}/run", "--data", "{lock}/test.txt", "--num_examples", "0"], "--num_examples (0)"),
        (
            ["audit", "{lock}/run", "--data", "{lock}/test.txt", "--no_cot", "{lock}/run/stages/removed_0000"],
            "--no_cot ({lock}/run/stages/removed_0000): this model writes a CoT",
        ),
        (
            ["audit", "{lock}/run", "--data", "{lock}/test.txt", "--explicit", "{lock}/run/stages/removed_0002"],
            "--explicit ({lock}/run/stages/removed_0002): of its CoT 2 units are removed",
        ),
        (["audit", "{lock}/run", "--data", "x", "--no_cto", "y"], "Did you mean --no_cot?"),
    ],
)
def test_mistakes(lock: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument.format(lock=lock) for argument in arguments]) == 2
    assert says.format(lock=lock) in capsys.readouterr().err


@pytest.mark.parametrize("command", ["frontier", "audit"])
def test_a_result_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"{command}.json").mkdir()
    assert main([command, str(tmp_path), "--data", "nowhere.txt"]) == 2
    assert f"{command}.json: a folder stands where the result belongs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["samples.jsonl", "metrics.jsonl"])
def test_samples_do_not_take_the_place_of_the_runs_own(lock: Path, name: str) -> None:
    before = (lock / "run" / name).read_bytes()
    asked = ["--model", lock / "run", "--data", lock / "test.txt", "--samples", lock / "run" / name]
    done = tacit("evaluate", *asked, HOME=str(lock))
    assert done.returncode == 2
    assert "is the record of a run; name another file" in done.stderr
    assert (lock / "run" / name).read_bytes() == before
