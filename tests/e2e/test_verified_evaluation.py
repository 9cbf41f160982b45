"""The reference answers save work in evaluation; recipe and command line can keep them out of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import evaluation
from pipeline.cli.evaluate import main
from pipeline.train import train
from tests.tiny import tiny_config


@pytest.fixture
def verified_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect how many prompts each verified decoding was given."""
    calls: list[int] = []
    decode = evaluation.verified_decode

    def spy(model: Any, prompts: Any, *rest: Any) -> Any:
        calls.append(len(prompts))
        return decode(model, prompts, *rest)

    monkeypatch.setattr(evaluation, "verified_decode", spy)
    return calls


def test_verification_is_turned_off_by_recipe_and_by_command(
    tmp_path: Path, verified_calls: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # the command's cache
    config = tiny_config(tmp_path, evaluation__verify=False)
    result = train(config)
    assert verified_calls == []

    def ask(*more: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        capsys.readouterr()
        samples = tmp_path / "samples.jsonl"
        arguments = ["--model", str(result.model_dir), "--data", config.data.validation, "--num_timed", "1", "--json"]
        assert main([*arguments, "--samples", str(samples), *more]) == 0
        report = json.loads(capsys.readouterr().out)
        figures = {key: value for key, value in report.items() if not key.startswith("examples_per_second")}
        return figures, [json.loads(line) for line in samples.read_text().splitlines()]

    plain = ask("--verify", "false")
    assert verified_calls == []
    assert ask() == plain
    assert verified_calls == [13]  # the rows once for accuracy; for speed none


def test_a_run_verifies_unless_told_otherwise(tmp_path: Path, verified_calls: list[int]) -> None:
    train(tiny_config(tmp_path))
    assert set(verified_calls) == {7}
