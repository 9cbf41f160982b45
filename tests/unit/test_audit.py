"""What an audit counts: exact tests, carries, groups of rows, probes, cut-off prompts, and what the verdict may say."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline.answer_spec import AnswerSpec
from pipeline.audit import cut_off, right_with_nothing_beyond, tokens_beyond
from pipeline.audit_report import AuditReport, Comparison, Leak
from pipeline.audit_rows import (
    has_positions,
    multiplied_sizes,
    neighbouring_sizes,
    training_questions,
    unseen_rows,
)
from pipeline.cli.audit_tables import print_audit
from pipeline.config import DataConfig, FormatConfig, load_config
from pipeline.difficulty import RowFacts, by_difficulty, num_carries, quartiles
from pipeline.evaluation import Contestant, Evaluation, Sample, make_prompts, make_references
from pipeline.examples import ExampleSet, load_examples
from pipeline.preparation import load_data
from pipeline.scoring import ScoreReport, mcnemar_p_value
from pipeline.tasks.digits import read_operands
from pipeline.verdict import verdict
from pipeline.word_tokenizer import build_word_tokenizer
from tests.tiny import write_recipe

FORMAT = FormatConfig(
    question="{question}", first_separator=" = ", cot="{cot}", second_separator=" #### ", answer="{answer}"
)


# --- McNemar's test


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 / 2
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (1, 5, 2 * (1 + 6) / 64),
        (6, 2, 2 * (1 + 8 + 28) / 256),
        (3, 3, 1.0),  # the tail and its mirror share the middle
    ],
)
def test_mcnemar_by_hand(only_first: int, only_second: int, p_value: float) -> None:
    assert mcnemar_p_value(only_first, only_second) == pytest.approx(p_value, rel=1e-15)
    assert mcnemar_p_value(only_second, only_first) == mcnemar_p_value(only_first, only_second)


def test_mcnemar_of_many_rows_neither_overflows_nor_takes_long() -> None:
    assert mcnemar_p_value(5_100, 4_900) == pytest.approx(0.0466, abs=2e-4)  # normal: z = 199 / 100
    assert mcnemar_p_value(10_000, 0) == 0.0


# --- properties of rows


@pytest.mark.parametrize(
    ("question", "read"),
    [
        ("1 2 * 3 4", ("*", ["21", "43"])),
        ("5 * 0 0 1", ("*", ["5", "100"])),
        ("1 2 + 3 4 + 5 6", ("+", ["21", "43", "65"])),
        ("1 2", None),
        ("12 * 3 4", None),
        ("1 * 2 * 3", None),
        ("1 * 2 + 3", None),
        ("1 2 * 3 4 ?", None),
        ("٣ * ٤", None),
    ],
)
def test_operands(question: str, read: tuple[str, list[str]] | None) -> None:
    assert read_operands(question) == read


@pytest.mark.parametrize(
    ("a", "b", "carries"),
    [
        (12, 34, 1),  # 48 + 360: 8, 4+6
        (11, 11, 0),  # 11 + 110
        (99, 9, 0),  # one partial product, 891: its own carries do not count
        (25, 25, 0),  # 125 + 500
        (99, 11, 2),  # 99 + 990: 9, 9+9, 0+9+1, 1
        (99, 99, 2),  # 891 + 8910: 1, 9+1, 8+9+1, 8+1
        (999, 999, 4),  # 8991 + 89910 + 899100: 1, 9+1, 9+9+1+1, 8+9+9+2, 8+9+2, 8+1
        (1000, 1001, 0),
    ],
)
def test_carries(a: int, b: int, carries: int) -> None:
    assert num_carries(a, b) == carries


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], ["1-2", "1-2", "3-4", "3-4", "5-6", "5-6", "7-8", "7-8"]),
        ([8, 1, 3], ["8", "1", "3"]),
        ([5, 5, 5, 5], ["5"] * 4),
        ([1, 1, 1, 1, 1, 1, 9, 30], ["1"] * 6 + ["9-30"] * 2),
        ([4], ["4"]),
    ],
)
def test_quartiles(values: list[int], names: list[str]) -> None:
    assert [name for _, name in quartiles(values)] == names


def test_rows_by_difficulty() -> None:
    rows = [
        RowFacts("9 9 * 1 1", "9 8 0 1", 2, 10),
        RowFacts("2 1 * 4 3", "8 0 4 0", 2, 10),
        RowFacts("2 * 2", "4 0", 1, 2),
        RowFacts("1 0 1 * 1 0 0 1", "1 0 1 1 0 1 0", 12, 44),
        RowFacts("no numbers", "1,200", 0, 0),
    ]
    groups = by_difficulty(rows, [True, False, True, False, True])
    plain = {
        name: [(group.value, group.score.num_correct, group.score.num_examples) for group in found]
        for name, found in groups.items()
    }
    assert plain == {
        "digits": [("1x1", 1, 1), ("2x2", 1, 2), ("3x4", 0, 1)],
        "carries": [("0", 1, 2), ("1", 0, 1), ("2", 1, 1)],
        "cot_steps": [("0", 1, 1), ("1", 1, 1), ("2", 1, 2), ("12", 0, 1)],
        "cot_tokens": [("0-2", 2, 2), ("10", 1, 2), ("44", 0, 1)],
        "answer_length": [("2-4", 3, 4), ("7", 0, 1)],
    }
    assert groups["digits"][1].to_json()["confidence_interval"] == ScoreReport(1, 2).confidence_interval
    others = by_difficulty([RowFacts("1 + 2 + 3", "6 0", 1, 2), RowFacts("1 0 + 2 + 3", "6 0", 1, 2)], [True, True])
    assert [group.value for group in others["digits"]] == ["1+1+1", "2+1+1"]
    assert "carries" not in others  # no multiplication among them


# --- probes and rows


def test_sizes_to_probe() -> None:
    questions = pa.chunked_array([["1 2 * 3 4", "5 6 * 7 8"], ["1 2 3 * 4", "1 + 2 + 3", "what is 2 * 3?"]])
    assert multiplied_sizes(questions) == {(2, 2), (3, 1)}
    assert neighbouring_sizes({(2, 2)}) == [(1, 1), (3, 3)]
    assert neighbouring_sizes({(4, 4), (5, 3)}) == [(3, 2), (6, 5)]
    assert neighbouring_sizes({(2, 2), (3, 1)}) == [(4, 3)]  # nothing has fewer than one digit
    assert neighbouring_sizes(set()) == []


@pytest.fixture
def examples(tmp_path: Path) -> ExampleSet:
    rows = ["1 * 2||2 0 #### 2 0", "3 * 4||2 1 #### 2 1", "1 * 2||2 0 #### 2 0", "5 * 5||5 2 5 2 #### 5 2"]
    (tmp_path / "rows.txt").write_text("\n".join(rows))
    config = DataConfig(cache_dir=str(tmp_path / "cache"))
    return load_examples(str(tmp_path / "rows.txt"), "", config, FORMAT, build_word_tokenizer())


def test_rows_that_were_trained_on_are_left_out(examples: ExampleSet) -> None:
    assert unseen_rows(examples, pa.chunked_array([["1 * 2", "7 * 7"]])).tolist() == [1, 3]
    assert unseen_rows(examples, None).tolist() == [0, 1, 2, 3]
    chosen = examples.select([1, 3])
    assert chosen.texts("question", range(2)) == ["3 * 4", "5 * 5"]
    assert chosen.take([1]) == examples.take([3])
    assert chosen.layout == examples.layout


def test_where_the_first_rows_are_trained_on_no_others_are_training_questions(tmp_path: Path) -> None:
    recipe, tokenizer = write_recipe(tmp_path, data__num_train=5), build_word_tokenizer()
    first = [line.partition("||")[0] for line in (tmp_path / "train.txt").read_text().splitlines()[:5]]
    assert load_data(load_config(recipe), tokenizer)[0].questions().to_pylist() == first
    assert training_questions(tmp_path, tokenizer).to_pylist() == first


@pytest.mark.parametrize("keep_positions", [False, True])
def test_cut_off_means_both_separators_in_the_prompt(examples: ExampleSet, keep_positions: bool) -> None:
    spec = AnswerSpec(FORMAT, 0, False, "left", "token", keep_positions, longest_cot=9)
    tokenizer = build_word_tokenizer()
    contestant = cut_off(Contestant(SimpleNamespace(), tokenizer, examples, spec))
    prompts, max_new_tokens = make_prompts(contestant.examples, contestant.spec)
    assert tokenizer.decode(prompts[3].row.input_ids) == "5 * 5 = ####"
    shift = 9 if keep_positions else 0
    assert prompts[3].row.position_ids.tolist() == [0, 1, 2, 3 + shift, 4 + shift]
    assert prompts[3].num_end_tokens == 1
    (reference,) = make_references(contestant.examples, contestant.spec, [3])
    assert tokenizer.decode(reference) == "5 2 <eos>"
    assert max_new_tokens == len(reference) + 8


def _sample(num_tokens: int) -> Sample:
    return Sample(0, "", "", "", True, 0, num_tokens, "")


def test_tokens_beyond_the_answer(examples: ExampleSet) -> None:
    written = Evaluation(tuple(map(_sample, (3, 2, 5, 7))))
    # A separator and two digits are what a right answer takes.
    assert tokens_beyond(examples, written) == [0, 0, 2, 4]
    without = ExampleSet(examples.rows, examples.layout.without_cot())
    assert tokens_beyond(without, written) == [1, 0, 3, 5]
    assert right_with_nothing_beyond(without, written) == [False, True, False, False]
    wrong = Evaluation(tuple(replace(sample, correct=False) for sample in written.samples))
    assert right_with_nothing_beyond(without, wrong) == [False] * 4


@pytest.mark.parametrize(
    ("num_positions", "changes", "fits"),
    [
        # Question, separator, separator and two digits are read; the end token is written only.
        (7, {}, True),
        (6, {}, False),
        (7, {"built_in_shift": 4, "question_length": 3}, True),
        (6, {"built_in_shift": 4, "question_length": 3}, False),
        (7, {"built_in_shift": 4, "question_length": 4}, False),
        (7, {"keep_positions": True}, False),
        (16, {"keep_positions": True}, True),
    ],
)
def test_positions_that_rows_need(examples: ExampleSet, num_positions: int, changes: dict, fits: bool) -> None:
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=num_positions))
    spec = replace(AnswerSpec(FORMAT, 9, True, "left", "token", False, longest_cot=9), **changes)
    probe = Contestant(model, build_word_tokenizer(), examples, spec)
    assert has_positions(probe).tolist() == [fits] * 4


# --- the report and the verdict


def test_leak_by_hand() -> None:
    leak = Leak([0, 4, 2, 0], [0, 4, 2, 3], [True, True, False, True])
    found = leak.to_json()
    assert (found["mean_cot_tokens"], found["max_cot_tokens"], found["num_rows_with_cot"]) == (1.5, 4, 2)
    assert (found["share_with_cot"], found["mean_tokens_beyond"]) == (0.5, 2.25)
    assert found["num_right_rows_beyond"] == 1  # the last: right, no CoT before a separator, and yet longer
    assert found["confidence_interval"] == ScoreReport(2, 4).confidence_interval


NO_COT = Comparison("no_cot", "n", ScoreReport(26, 100), 72, 2)
CUT_OFF = Comparison("explicit_cut_off", "e", ScoreReport(30, 100), 67, 1)
EXPLICIT = Comparison("explicit", "e", ScoreReport(99, 100), 1, 4)
CLEAN = AuditReport(
    model="m",
    data="t.txt",
    num_removed=12,
    removes_all=True,
    score=ScoreReport(96, 100),
    leak=Leak([0] * 100, [0] * 100, [True] * 96 + [False] * 4),
    difficulty=by_difficulty([RowFacts("1 * 2", "2 0", 1, 2)] * 100, [True] * 96 + [False] * 4),
    out_of_distribution=[],
    comparisons=[NO_COT, CUT_OFF, EXPLICIT],
    num_contaminated=0,
    notes=["something"],
)


def test_yes_takes_every_piece_of_evidence() -> None:
    answer, written, *compared = verdict(CLEAN)
    assert answer.startswith("Yes, as far as these rows tell")
    assert written == "It wrote no CoT on any of 100 rows (95 %: on less than 3.7 % of all such rows)."
    assert compared[0].startswith("More accurate than No CoT (96.0 against 26.0 %, p < 0.001): ")
    assert compared[2].startswith("No difference shown to explicit CoT (96.0 against 99.0 %, p = 0.38): no loss")


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"removes_all": False}, "Not in full: 12 CoT units are removed"),
        ({"leak": replace(CLEAN.leak, num_cot_tokens=[0] * 99 + [3])}, "Not in full: some rows"),
        ({"leak": replace(CLEAN.leak, num_tokens_beyond=[3] + [0] * 99)}, "Not in full: some rows"),
        ({"comparisons": [CUT_OFF]}, "Open: nothing was compared with No CoT."),
        ({"comparisons": []}, "Open: nothing was compared with No CoT and explicit CoT made to answer at once."),
        # Nine rows against two: p = 0.065.
        (
            {"comparisons": [replace(NO_COT, only_model=9), CUT_OFF]},
            "Not shown: the model is not more accurate",
        ),
        # Significantly worse is not better either.
        ({"comparisons": [NO_COT, replace(CUT_OFF, only_model=1, only_other=67)]}, "Not shown: the model is not more"),
        ({"comparisons": [replace(NO_COT, only_model=0)]}, "Not shown: the model is not more accurate than No CoT."),
    ],
)
def test_anything_less_is_no_yes(changes: dict, answer: str) -> None:
    assert verdict(replace(CLEAN, **changes))[0].startswith(answer)


def test_a_wrong_row_that_rambles_is_no_hidden_cot() -> None:
    leak = replace(CLEAN.leak, num_tokens_beyond=[0] * 99 + [3])  # the last row is answered wrong
    assert verdict(replace(CLEAN, leak=leak))[0].startswith("Yes")


def test_what_was_written_may_be_why_a_model_is_better() -> None:
    leak = replace(CLEAN.leak, num_cot_tokens=[3] * 100)
    *_, no_cot, cut_off, _ = verdict(replace(CLEAN, leak=leak))
    assert no_cot == "More accurate than No CoT (96.0 against 26.0 %, p < 0.001)."
    assert "taught" in verdict(CLEAN)[3] and "taught" not in cut_off


def test_losses_are_told() -> None:
    sentences = verdict(replace(CLEAN, comparisons=[replace(EXPLICIT, only_model=0, only_other=30)]))
    assert sentences[-1].startswith("Less accurate than explicit CoT") and "has cost accuracy" in sentences[-1]


def test_the_report_as_json_has_the_figures_that_are_drawn() -> None:
    found = json.loads(json.dumps(CLEAN.to_json()))
    assert found["accuracy"] == 0.96 and found["num_examples"] == 100
    assert found["difficulty"]["digits"] == [
        {
            "value": "1x1",
            "num_examples": 100,
            "num_correct": 96,
            "accuracy": 0.96,
            "confidence_interval": list(ScoreReport(96, 100).confidence_interval),
        }
    ]
    other = found["comparisons"][1]
    score = {"accuracy", "confidence_interval", "num_correct", "num_examples"}
    assert other.keys() == {"name", "model", *score, "only_model", "only_other", "p_value"}
    assert other["p_value"] == mcnemar_p_value(67, 1)


def test_the_tables_print_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    print_audit(CLEAN)
    printed = capsys.readouterr().out
    for figure in ("96.0 %", "26.0 %", "explicit CoT made to answer at once", "67"):
        assert figure in printed
    assert "The same in every row: digits of the numbers (1x1)" in printed
    assert "note: something" in printed
    assert max(map(len, printed.splitlines())) <= 100
