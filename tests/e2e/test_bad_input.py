"""Recipes that cannot run, through the command: one clear line, exit code 2, and no rank left over.

What `train` itself refuses is in test_refusals.py; here it is what a shell and a cluster see.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipeline.cli.main import main
from pipeline.word_tokenizer import build_word_tokenizer
from tests.forked import Command
from tests.tiny import ROOT, free_port, shell_environment, variables_of_ranks, write_recipe

SECONDS = 180  # of a whole command
SECONDS_TO_END = 30
LORA = {"rank": 2}
PAPER_FORMAT = {"question": "{bos} {question} ", "first_separator": "{eos}", "cot": " {cot} "}


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Write a tiny GPT-2 with this tokenizer; return the recipe's `model` section."""
    special = {"bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=40, vocab_size=len(tokenizer), **special)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"name_or_path": str(folder)}


def words_without_end() -> PreTrainedTokenizerFast:
    tokenizer = build_word_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


def words_whose_unknown_is_the_end() -> PreTrainedTokenizerFast:
    tokenizer = build_word_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    inner = Tokenizer(models.WordLevel(tokenizer.get_vocab(), unk_token=tokenizer.eos_token))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<eos>", pad_token="<pad>")


def letters_without_unknown(known: str) -> PreTrainedTokenizerFast:
    """A tokenizer that drops every character but these, and says nothing."""
    vocabulary = {letter: i for i, letter in enumerate(["<eos>", *known])}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, [])), eos_token="<eos>")


def words_without_unknown() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<eos>", *"0123456789"])}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def refused(capsys: pytest.CaptureFixture[str], recipe: Path, *overrides: str) -> list[str]:
    """Run the command in this process and return its lines of error."""
    assert main(["train", "--config", str(recipe), *overrides]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert not (recipe.parent / "run").exists()
    return [line for line in captured.err.splitlines() if line.startswith("tacit: error: ")]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--lora.alpha", "64"], "lora.alpha (64) is set, but lora.rank is not"),
        (["--lora.targets", "[q_proj]"], "lora.targets (['q_proj']) is set, but lora.rank is not"),
        (["--model.quantization", "nf4"], "model.quantization (nf4) freezes the model, so it needs adapters"),
        (["--lora.rank", "0"], "lora.rank (0) must be at least 1"),
    ],
)
def test_a_setting_of_adapters_in_a_recipe_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    model = {"name_or_path": "some/model"}
    lines = refused(capsys, write_recipe(tmp_path, model=model), *overrides)
    assert [line for line in lines if message in line] == lines != []


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_zero_3_with_a_quantised_base(tmp_path: Path, capsys: pytest.CaptureFixture[str], quantization: str) -> None:
    model = save_model(tmp_path / "base", build_word_tokenizer())
    recipe = write_recipe(
        tmp_path, model={**model, "quantization": quantization}, lora=LORA, engine__deepspeed="ds_configs/zero3.json"
    )
    (line,) = refused(capsys, recipe)
    assert "engine.deepspeed (ds_configs/zero3.json)" in line and f"model.quantization {quantization}" in line
    assert "ds_configs/zero2.json" in line


@pytest.mark.parametrize(
    ("tokenizer", "row_format", "message"),
    [
        (words_without_end, PAPER_FORMAT, "format.first_separator ('{eos}') holds {eos}, which the tokenizer lacks"),
        (build_word_tokenizer, {"second_separator": " answer: "}, "format.second_separator (' answer: '), is not in"),
        (words_whose_unknown_is_the_end, {"second_separator": " -> "}, "second_separator (' -> '), is not in"),
        (lambda: letters_without_unknown("0123456789*+()= "), {}, "'#' is not in the tokenizer's vocabulary"),
        (words_without_unknown, {}, "cannot read the rows"),
    ],
    ids=["no end token", "unknown", "unknown is the end", "dropped", "cannot"],
)
def test_a_vocabulary_without_the_separator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: Any, row_format: dict[str, str], message: str
) -> None:
    recipe = write_recipe(tmp_path, model=save_model(tmp_path / "base", tokenizer()))
    overrides = [f"--format.{name}={template}" for name, template in row_format.items()]
    (line,) = refused(capsys, recipe, *overrides)
    assert message in line and "format." in line


def test_an_end_token_in_the_format_is_no_unknown_word(tmp_path: Path) -> None:
    model = save_model(tmp_path / "base", words_whose_unknown_is_the_end())
    recipe = write_recipe(tmp_path, model=model, format__second_separator=" <eos> ", schedule__max_steps=1)
    assert main(["train", "--config", str(recipe)]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{tmp}/nowhere", "nowhere): there is no such folder"),
        ("runs/x/stages/removed_0000", "removed_0000): there is no such folder"),
        ("recipes/architectures/gpt2", "no file named"),  # a configuration, but no weights
    ],
)
def test_a_model_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    model = {"name_or_path": name.format(tmp=tmp_path), "tokenizer": "words"}
    (line,) = refused(capsys, write_recipe(tmp_path, model=model))
    assert "model.name_or_path" in line and message in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"train_micro_batch_size_per_gpu": "auto"}', "sets train_micro_batch_size_per_gpu; take it out"),
        (b'{"optimizer": {"type": "AdamW", "params": {"lr": 0.1}}}', "sets optimizer; take it out"),
        (b'{"scheduler": {"type": "WarmupLR"}}', "sets scheduler; take it out"),
        (b'{"zero_optimization": {"stage": 2, "reduce_bucket": 5}}', "reduce_bucket"),
    ],
)
def test_a_deepspeed_file_at_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (tmp_path / "ds.json").write_bytes(content)
    (line,) = refused(capsys, write_recipe(tmp_path, engine__deepspeed=str(tmp_path / "ds.json")))
    assert str(tmp_path / "ds.json") in line and message in line


def test_a_deepspeed_file_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, write_recipe(tmp_path, engine__deepspeed=str(tmp_path)))
    assert f"engine.deepspeed ({tmp_path}): cannot be read (Is a directory)" in line


def zero_3_with_8_bits(folder: Path) -> dict[str, Any]:
    model = {**save_model(folder / "base", build_word_tokenizer()), "quantization": "int8"}
    return {"model": model, "lora": LORA, "engine__deepspeed": "ds_configs/zero3.json"}


# Found before the data, while it is prepared, and while the ranks build a model together.
ON_RANKS = {
    "ZeRO-3 with 8 bits": (zero_3_with_8_bits, "ds_configs/zero2.json"),
    "unknown separator": (lambda folder: {"format__first_separator": " ? "}, "not in the tokenizer's vocabulary"),
    "too few positions": (lambda folder: {"engine__deepspeed": "ds_configs/zero3.json"}, "takes 20 positions"),
    "no weights": (
        lambda folder: {"model": {"name_or_path": "recipes/architectures/gpt2", "tokenizer": "words"}},
        "no file named",
    ),
}


def mistaken(folder: Path, mistake: str) -> tuple[list[str], str]:
    """Return the command's arguments and a part of what it must say."""
    overrides, message = ON_RANKS[mistake]
    arguments = ["train", "--config", str(write_recipe(folder, **overrides(folder)))]
    if mistake == "too few positions":
        arguments += ["--model.from_scratch.n_positions", "19"]
    return arguments, message


def check_told_once(said: str, message: str) -> None:
    """Check that one line tells the mistake, and no traceback."""
    errors = [line for line in said.splitlines() if "tacit: error" in line]
    assert len(errors) == 1 and errors[0].startswith("tacit: error: ") and message in errors[0], said
    assert "Traceback" not in said


@pytest.mark.parametrize("mistake", ON_RANKS)
def test_on_two_ranks_one_tells_the_mistake_and_all_end(tmp_path: Path, mistake: str) -> None:
    arguments, message = mistaken(tmp_path, mistake)
    log = tmp_path / "log.txt"
    ranks = [Command(*arguments, stdout=log, stderr=log, **variables) for variables in variables_of_ranks(2)]
    try:
        end = time.monotonic() + SECONDS
        while not log.exists() or "tacit: error" not in log.read_text():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        assert [rank.wait(SECONDS_TO_END) for rank in ranks] == [2, 2], log.read_text()
    finally:
        for rank in ranks:
            rank.kill()
    check_told_once(log.read_text(), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ON_RANKS)
def test_under_the_launcher_no_rank_is_left_over(tmp_path: Path, mistake: str) -> None:
    arguments, message = mistaken(tmp_path, mistake)
    launcher = [str(Path(sys.executable).parent / "deepspeed"), "--num_gpus", "2", "--no_local_rank"]
    launcher += ["--master_port", str(free_port())]
    process = subprocess.Popen(
        [*launcher, "--module", "pipeline", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=shell_environment(PYTHONPATH=str(ROOT)),
        start_new_session=True,
    )
    deadline = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    deadline.start()
    try:
        told_at, lines = None, []
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if told_at is None and "tacit: error" in line:
                told_at = time.monotonic()
        returned = process.wait()
    finally:
        deadline.cancel()
    check_told_once("".join(lines), message)
    assert returned == 2
    assert told_at is not None and time.monotonic() - told_at < SECONDS_TO_END
    assert ranks_of(tmp_path / "recipe.yaml") == []
    assert not (tmp_path / "run").exists()


def ranks_of(recipe: Path) -> list[int]:
    """Return the processes whose command line names this recipe."""
    named = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.fsencode(recipe) in (folder / "cmdline").read_bytes():
                    named.append(int(folder.name))
            except OSError:
                continue  # it has just ended
    return named
