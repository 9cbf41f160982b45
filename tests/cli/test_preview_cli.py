"""`tacit preview` through the shell, and what it draws."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli.main import main
from pipeline.cli.preview_text import in_one_word, row_text, share_of_padding
from pipeline.preview.preview import MicroBatchShape
from pipeline.preview.rows import Token
from tests.forked import tacit
from tests.gpt2_style import END, build_gpt2_style
from tests.tiny import ROOT, write_recipe

ROWS = "1 2||3 4 5 #### 6\n7||8 #### 9\n"
SETTINGS: dict[str, Any] = {
    "schedule": {"removed_per_epoch": 1, "final_epochs": 1},
    "removal": {"smoothing_lambda": float("inf")},
}


def recipe(folder: Path, rows: str = ROWS, **overrides: Any) -> str:
    (folder / "rows.txt").write_text(rows)
    return str(write_recipe(folder, **{"data__train": str(folder / "rows.txt"), **SETTINGS, **overrides}))


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["preview", *arguments]) == 0
    return [line.strip() for line in capsys.readouterr().out.splitlines()]


# Through the shell


def test_marks_tell_everything_without_colour(tmp_path: Path) -> None:
    finished = tacit("preview", "--config", recipe(tmp_path), "--stages", "0,1,last", "--ranks=2", "--positions")
    assert finished.returncode == 0, finished.stderr
    assert "\x1b" not in finished.stdout
    lines = [line.strip() for line in finished.stdout.splitlines()]
    assert lines[0] == "2 training rows, 1 optimizer steps an epoch; 4 stages, from 0 to 3 CoT tokens removed (fixed)."
    assert "question [separator or end] ~~removed~~ CoT answer {carries loss} ␣ blank inside a token" in lines
    for line in (
        "0 CoT tokens removed, from optimizer step 0 on (epoch 0)",
        "1 2 [=] {3 4 5 [####] 6 [<eos>]}",
        "1 CoT token removed, from optimizer step 1 on (epoch 1)",
        "row 0: offset 0, 1 of 3 CoT tokens gone",
        "1 2 [=] ~~3~~ {4 5 [####] 6 [<eos>]}",
        "3 CoT tokens removed (all), from optimizer step 3 on (epoch 3)",
        "1 2 [=] ~~3 4 5~~ {[####] 6 [<eos>]}",
    ):
        assert lines.count(line) == 1, line
    assert lines.count("7 [=] ~~8~~ {[####] 9 [<eos>]}") == 2  # at both later stages
    tables = [" ".join(line.split()) for line in lines]
    for line in ("question 2 5 1", "cot 3 6 removed", "cot 4 7 3 loss", "end <eos> 1 7 loss"):
        assert line in tables
    assert "1 1.5 / 2 1.0 / 2 1.0 / 1 6.5 / 8 50.0 % 0.0 % 0.0 %" in tables
    assert "1 0 1 0.0 % 1 x 8" in tables and "1 1 0.0 % 1 x 5" in tables
    assert not (tmp_path / "run").exists()


def test_json_of_a_recipe_whose_model_has_no_weights(tmp_path: Path) -> None:
    build_gpt2_style().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    path = recipe(
        tmp_path,
        "how many||<<1+2=3>> <<4*5=20>> #### 20\n",
        model={"name_or_path": str(tmp_path / "model")},
        format={},  # the paper's
        removal={"smoothing_lambda": float("inf"), "unit": "step"},
    )
    finished = tacit("preview", "--config", path, "--json", "--stages", "1")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert (told["num_rows"], told["num_removed"]) == (1, [0, 1, 2])
    (stage,) = told["stages"]
    assert (stage["stage"]["num_removed"], stage["epoch"]) == (1, 1)
    (row,) = stage["rows"]
    text = {
        part: "".join(token["text"] for token in row["tokens"] if (token["part"], token["position"] is None) == part)
        for part in {(token["part"], token["position"] is None) for token in row["tokens"]}
    }
    assert text == {
        ("question", False): " how many ",
        ("first_separator", False): END,
        ("cot", True): " <<1+2=3>>",
        ("cot", False): " <<4*5=20>> ",
        ("second_separator", False): END,
        ("answer", False): " #### 20 ",
        ("end", False): END,
    }
    kept = [token for token in row["tokens"] if token["position"] is not None]
    assert [token["position"] for token in kept] == list(range(len(kept)))
    assert [token["has_loss"] for token in kept] == [
        token["part"] not in ("question", "first_separator") for token in kept
    ]
    assert stage["counts"]["row"] == {"mean": len(kept), "longest": len(kept)}
    assert stage["ranks"] == [[{"num_rows": 1, "padded_length": len(kept), "num_tokens": len(kept)}]]
    assert row["num_removed"] == row["num_cot"] - sum(token["part"] == "cot" for token in kept)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--rows", "0"), "--rows (0) must be a whole number of at least 1; correct it."),
        (("--ranks", "two"), "--ranks (two) must be a whole number of at least 1; correct it."),
        (("--stages",), "--stages has no value; write --stages VALUE."),
        (("--stage", "1"), "--stage: unknown option of tacit preview. Did you mean --stages?"),
        (("--optim.lrr", "1"), "optim.lrr: unknown setting. Did you mean optim.lr?"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["preview", "--config", str(ROOT / "recipes" / "demo.yaml"), *arguments]) == 2
    assert capsys.readouterr().err == f"tacit: error: {says}\n"


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    finished = tacit("preview", "--config", recipe(tmp_path), "--stages", "0,4")
    assert (finished.returncode, finished.stdout) == (2, "")
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("tacit: error: ")]
    assert line == (
        "tacit: error: --stages (0,4): no stage of this run has '4' removed units; take from 0, 1, 2, 3 or last."
    )
    assert "Traceback" not in finished.stderr


def test_help_names_options_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["preview", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--rows", "--stages", "--ranks", "--positions", "--json", "--config", "--removal.unit"):
        assert option in text


# Other kinds of recipes


def test_kept_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, removal={"smoothing_lambda": float("inf"), "keep_positions": True})
    lines = lines_of(capsys, "--config", path, "--stages", "2", "--positions")
    assert "row 0: offset 0, 2 of 3 CoT tokens gone, positions shifted by 2" in lines
    assert "= 44 4" in [
        " ".join(line.split()[2:]) for line in lines
    ]  # behind a question of two tokens and a gap of two


@pytest.mark.parametrize("kind", ["no_cot", "explicit_cot"])
def test_baselines(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    lines = lines_of(capsys, "--config", recipe(tmp_path, schedule={"kind": kind}), "--stages", "last")
    removed = "3 CoT tokens removed (all)" if kind == "no_cot" else "0 CoT tokens removed"
    assert f"{removed}, from optimizer step 0 on (epoch 0)" in lines
    gone = 3 if kind == "no_cot" else 0
    assert f"row 0: no offset drawn, {gone} of 3 CoT tokens gone" in lines
    row = "1 2 [=] ~~3 4 5~~ {[####] 6 [<eos>]}" if kind == "no_cot" else "1 2 [=] {3 4 5 [####] 6 [<eos>]}"
    assert row in lines


def test_an_adaptive_schedule_says_that_stages_may_begin_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adaptive = {"window": 2, "min_steps": 3, "max_steps": 9, "removed_per_stage": 2}
    lines = lines_of(capsys, "--config", recipe(tmp_path, schedule={"kind": "adaptive", "adaptive": adaptive}))
    assert lines[0].endswith("3 stages, from 0 to 3 CoT tokens removed (adaptive).")
    assert "0 CoT tokens removed, from optimizer step 0 on (epoch 0)" in lines
    assert "2 CoT tokens removed, at the earliest from optimizer step 3 on (epoch 3)" in lines
    assert "3 CoT tokens removed (all), at the earliest from optimizer step 6 on (epoch 6)" in lines


# Drawing


def token(text: str, part: str, removed: bool = False, has_loss: bool = False) -> Token:
    return Token(text, 0, part, None if removed else 0, has_loss)


def test_a_gap_in_the_middle_ends_the_loss() -> None:
    tokens = [
        token("q", "question"),
        token("a", "cot", has_loss=True),
        token("b", "cot", removed=True),
        token("#", "second_separator", removed=True),
        token("x", "answer", has_loss=True),
    ]
    assert row_text(tokens).plain == "q {a} ~~b~~ ~~[#]~~ {x}"


def test_colours_strike_and_underline() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard")
    console.print(
        row_text([token("q", "question"), token("b", "cot", removed=True), token("x", "answer", has_loss=True)])
    )
    assert file.getvalue() == ("\x1b[36mq\x1b[0m \x1b[9;31m~~b~~\x1b[0m {\x1b[4;32mx\x1b[0m}\n")


@pytest.mark.parametrize(
    ("text", "word"), [(" 1", "␣1"), ("  ", "␣␣"), ("\n", "\\n"), ("\x1b[31m", "\\x1b[31m"), ("é", "é"), ("[b]", "[b]")]
)
def test_tokens_are_words_without_anything_that_cannot_be_seen(text: str, word: str) -> None:
    assert in_one_word(text) == word


def test_share_of_padding() -> None:
    assert share_of_padding([MicroBatchShape(2, 10, 15), MicroBatchShape(1, 5, 5)]) == 1 - 20 / 25
    assert share_of_padding([MicroBatchShape(0, 1, 0)]) == 1.0
