"""Decoding that tries the reference first, against greedy decoding: the same tokens in every row, in fewer passes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from pipeline import evaluation
from pipeline.answer_spec import AnswerSpec
from pipeline.batching import IGNORE_INDEX, collate
from pipeline.config import DataConfig, FormatConfig
from pipeline.decoding import Prompt, greedy_decode
from pipeline.evaluation import Contestant, evaluate, make_prompts, make_references, speeds_at_batch_one
from pipeline.examples import ExampleSet, load_examples
from pipeline.layout import SequenceLayout, assemble_prompt, assemble_row
from pipeline.loss import token_loss_sum
from pipeline.records import write_records
from pipeline.tasks import Automaton, generate_splits
from pipeline.verification import decode, verified_decode
from pipeline.verification.rows import best_width, compare
from pipeline.verification.slots import SlotCache
from pipeline.word_tokenizer import build_word_tokenizer

END, PAD = 1, 0
LAYOUT = SequenceLayout((END,), (END,), END, PAD)
VOCABULARY = 13
MAX_NEW_TOKENS = 20

# As small as they come: every rule of the loop is at work within a few rows.
TIGHT = {"MAX_LOGITS": 6 * VOCABULARY, "PASS_TOKENS": 50, "FIRST_WINDOW": 8, "REFILL_AT": 8, "SPARE_COLUMNS": 1}


def build(model_type: str, attention: str = "sdpa", **settings: object) -> PreTrainedModel:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    if model_type != "gpt2":
        small |= {"intermediate_size": 32, "num_key_value_heads": 1}
    # Weights far from zero, so that every token and position matters to the argmax.
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.5, "bos_token_id": None, "eos_token_id": None}
    config = AutoConfig.for_model(model_type, **{**common, **small, **settings})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def ragged_prompts(number: int, shift: int, layout: SequenceLayout = LAYOUT, longest: int = 12) -> list[Prompt]:
    generator = np.random.default_rng(0)
    questions = [generator.integers(2, VOCABULARY, generator.integers(1, longest)).tolist() for _ in range(number)]
    ends = generator.choice([1, 2, 3, 99], number).tolist()
    return [
        Prompt(assemble_prompt(tuple(question), layout, shift), count)
        for question, count in zip(questions, ends, strict=True)
    ]


def drafts_like(written: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return guesses of every quality: right, right up to somewhere, with some tokens changed, useless, none."""
    generator = np.random.default_rng(1)
    drafts = []
    for i, ids in enumerate(written):
        draft = [*ids, END]
        match i % 7:
            case 1:
                draft = draft[: generator.integers(0, len(draft) + 1)]
            case 2:
                draft[generator.integers(0, len(draft))] = 5
            case 3:
                draft = [5 if generator.random() < 0.2 else token for token in draft]
            case 4:
                draft = generator.integers(0, VOCABULARY, 2 * MAX_NEW_TOKENS).tolist()
            case 5:
                draft = []
            case 6:
                draft += [7] * MAX_NEW_TOKENS  # longer than anything that may be written
        drafts.append(draft)
    return drafts


@contextmanager
def counted(model: PreTrainedModel) -> Iterator[list[torch.Size]]:
    """Collect the shape of the input of each pass."""
    shapes: list[torch.Size] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    yield shapes
    hook.remove()


def assert_equal(
    model: PreTrainedModel, prompts: list[Prompt], layout: SequenceLayout = LAYOUT, batch_size: int = 64
) -> list[list[int]]:
    expected = greedy_decode(model, prompts, layout, MAX_NEW_TOKENS, 256)
    drafts = drafts_like(expected)
    assert verified_decode(model, prompts, drafts, layout, MAX_NEW_TOKENS, batch_size) == expected
    return expected


@pytest.mark.parametrize("shift", [0, 17])
@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt2", {}),
        ("gpt2", {"attention": "eager"}),
        ("llama", {}),
        ("mistral", {"sliding_window": 64}),  # further back than any row begins
        ("mistral", {"sliding_window": 8}),
    ],
    ids=str,
)
def test_thousands_of_rows_equal_greedy_decoding(model_type: str, settings: dict, shift: int) -> None:
    model = build(model_type, **settings)
    written = assert_equal(model, ragged_prompts(700, shift), batch_size=256)
    assert len({tuple(ids) for ids in written}) > 30  # the questions matter, or equality would say little


@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("shift", [0, 17])
def test_small_passes_and_few_slots(
    tiny_model: PreTrainedModel, shift: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in TIGHT.items():
        monkeypatch.setattr(decode, name, value)
    closed, shapes = [], []
    close_holes = SlotCache.close_holes
    monkeypatch.setattr(SlotCache, "close_holes", lambda *args: closed.append(1) or close_holes(*args))
    prompts = ragged_prompts(min(60, 12 * batch_size), shift)
    expected = greedy_decode(tiny_model, prompts, LAYOUT, MAX_NEW_TOKENS, 256)
    hook = tiny_model.register_forward_hook(
        lambda _, __, inputs, output: shapes.append((inputs["input_ids"], inputs["attention_mask"], output.logits)),
        with_kwargs=True,
    )
    written = verified_decode(tiny_model, prompts, drafts_like(expected), LAYOUT, MAX_NEW_TOKENS, batch_size)
    hook.remove()
    assert written == expected
    assert closed or batch_size < 20
    for input_ids, mask, logits in shapes:
        assert logits.numel() <= max(TIGHT["MAX_LOGITS"], len(input_ids) * VOCABULARY)
        begins = mask.shape == input_ids.shape  # nothing in the cache before
        assert not begins or input_ids.numel() <= TIGHT["PASS_TOKENS"] or len(input_ids) == 1


def test_a_wide_pass_beside_a_row_that_is_nearly_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SPARE_COLUMNS": 0, "PASS_COST": 10**6, "REFILL_AT": 2}.items():
        monkeypatch.setattr(decode, name, value)
    model = lookup_model()
    prompts = [dataclasses.replace(prompt, num_end_tokens=99) for prompt in ragged_prompts(20, 0, longest=3)]
    prompts.append(Prompt(assemble_prompt(tuple(range(2, 12)) * 3, LAYOUT), num_end_tokens=99))
    expected = greedy_decode(model, prompts, LAYOUT, MAX_NEW_TOKENS, 256)
    drafts = [[7 if ids[0] != 7 else 8, *ids[1:]] for ids in expected[:-1]]  # windows that grow
    drafts.append([])  # one token at a time, to the end of its slot
    assert verified_decode(model, prompts, drafts, LAYOUT, MAX_NEW_TOKENS, 2) == expected


@pytest.mark.parametrize(
    "layout",
    [
        SequenceLayout((END,), (END,), END, END),  # padding is a separator too
        SequenceLayout((2,), (3, 4), END, PAD),
        SequenceLayout((2, 3), (), END, PAD),
    ],
)
def test_separators_of_any_kind(tiny_model: PreTrainedModel, layout: SequenceLayout) -> None:
    assert_equal(tiny_model, ragged_prompts(60, 5, layout), layout)


def test_a_model_whose_state_runs_on_is_decoded_plainly() -> None:
    model = build("lfm2", layer_types=["conv", "full_attention"])
    prompts = ragged_prompts(20, 0)
    expected = greedy_decode(model, prompts, LAYOUT, MAX_NEW_TOKENS, 8)
    assert verified_decode(model, prompts, drafts_like(expected), LAYOUT, MAX_NEW_TOKENS, 8) == expected


def test_rows_near_the_last_position(tiny_model: PreTrainedModel) -> None:
    # The model has 64 positions; these rows have room for 1 to 24 tokens, and never stop by themselves.
    lengths = range(39, 63)
    rows = [assemble_prompt(tuple(2 + i % 11 for i in range(length)), LAYOUT) for length in lengths]
    prompts = [Prompt(row, num_end_tokens=99) for row in rows]
    written = assert_equal(tiny_model, prompts)
    assert [len(ids) for ids in written] == [min(63 - length, MAX_NEW_TOKENS) for length in lengths]


def test_nothing_is_decoded_for_no_prompt(tiny_model: PreTrainedModel) -> None:
    assert verified_decode(tiny_model, [], [], LAYOUT, MAX_NEW_TOKENS, 4) == []


def endless(number: int) -> list[Prompt]:
    """Prompts whose rows are written up to the limit."""
    return [dataclasses.replace(prompt, num_end_tokens=99) for prompt in ragged_prompts(number, 0)]


def test_right_drafts_need_two_passes_for_all_rows(tiny_model: PreTrainedModel) -> None:
    prompts = endless(30)
    expected = greedy_decode(tiny_model, prompts, LAYOUT, MAX_NEW_TOKENS, 30)
    with counted(tiny_model) as passes:
        assert verified_decode(tiny_model, prompts, expected, LAYOUT, MAX_NEW_TOKENS, 30) == expected
    assert [rows for rows, _ in passes] == [8, 22]  # a few rows first, which show that drafts are right


def test_one_wrong_token_costs_few_passes_and_only_its_row() -> None:
    model = lookup_model()
    prompts = endless(30)
    expected = greedy_decode(model, prompts, LAYOUT, MAX_NEW_TOKENS, 30)
    drafts = [list(ids) for ids in expected]
    drafts[7][2] = 2 + (drafts[7][2] - 1) % 11  # another token; what follows it does not change
    with counted(model) as passes:
        assert verified_decode(model, prompts, drafts, LAYOUT, MAX_NEW_TOKENS, 30) == expected
    assert passes[0] == (8, max(len(prompt.row.input_ids) for prompt in prompts) + MAX_NEW_TOKENS - 1)
    assert passes[1][0] == 22
    assert {rows for rows, _ in passes[2:]} == {1}
    assert sum(width for _, width in passes[2:]) <= MAX_NEW_TOKENS
    assert len(passes) <= 6


def lookup_model() -> PreTrainedModel:
    """A model that writes what its position says, whatever the tokens are."""
    model = build("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[:] = torch.eye(VOCABULARY, 16) * 3
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
        model.transformer.wpe.weight.copy_(torch.eye(16)[torch.randint(2, VOCABULARY, (64,))] * 100)
    return model


def test_a_useless_draft_costs_hardly_more_than_none(tiny_model: PreTrainedModel) -> None:
    prompts, num_slots = endless(800), 200
    expected = greedy_decode(tiny_model, prompts, LAYOUT, MAX_NEW_TOKENS, num_slots)
    wrong = [[12 if token != 12 else 11 for token in ids] for ids in expected]
    with counted(tiny_model) as passes:
        assert verified_decode(tiny_model, prompts, wrong, LAYOUT, MAX_NEW_TOKENS, num_slots) == expected
    prompt_tokens = sum(len(prompt.row.input_ids) for prompt in prompts)
    needed = prompt_tokens + len(prompts) * (MAX_NEW_TOKENS - 1)
    tried = passes[0][0] * (MAX_NEW_TOKENS - 1)  # the first rows' drafts: nothing is known yet
    assert sum(rows * width for rows, width in passes) < 1.25 * needed + tried


def test_rows_leave_the_batch_when_they_are_done() -> None:
    model, prompts = lookup_model(), endless(16)
    expected = greedy_decode(model, prompts, LAYOUT, MAX_NEW_TOKENS, 16)
    short = [dataclasses.replace(p, num_end_tokens=1) if i % 2 else p for i, p in enumerate(prompts)]
    end_layout = dataclasses.replace(LAYOUT, end_id=expected[1][1])
    with counted(model) as passes:
        written = verified_decode(model, short, [[]] * 16, end_layout, MAX_NEW_TOKENS, 16)
    assert written == greedy_decode(model, short, end_layout, MAX_NEW_TOKENS, 16)
    assert passes[-1][0] <= 8


# --- the pure parts


def test_compare() -> None:
    guesses = np.array([[5, 6, 7], [5, 6, 7], [5, 6, 7], [9, 6, 7], [5, 6, 0], [0, 0, 0]])
    predictions = np.array([[5, 6, 7], [5, 9, 7], [5, 6, 9], [5, 6, 7], [5, 6, -1], [4, -1, -1]])
    agreed, accepted = compare(guesses, predictions, np.array([3, 3, 3, 3, 2, 1]))
    assert agreed.tolist() == [3, 1, 2, 0, 2, 0]
    # Behind a disagreement nothing is sure; the last prediction of a row is, if all before it agreed.
    assert accepted.tolist() == [3, 2, 3, 1, 2, 1]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([1, 1, 1], 1),
        ([8], 8),
        ([8] * 100, 8),
        ([1] * 500 + [32], 1),  # one row's long guess is not worth a wide pass for all
        ([1, 32], 32),  # few rows: the pass itself is what costs
    ],
)
def test_best_width(windows: list[int], expected: int) -> None:
    assert best_width(np.array(windows), pass_cost=64) == expected


# --- evaluation


FORMAT = FormatConfig(
    question="{question}", first_separator=" = ", cot="{cot}", second_separator=" #### ", answer="{answer}"
)
SPEC = AnswerSpec(FORMAT, 0, False, "left", "token", False, 0)


# States of a lock that the digits 7, 8 and 9 turn; the CoT is the state after each digit.
LOCK = tuple(tuple((state + max(digit - 6, 0)) % 4 for digit in range(10)) for state in range(4))
Trained = tuple[PreTrainedModel, PreTrainedTokenizerBase, ExampleSet]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model that has half learned a task with questions of two lengths, and 1,000 unseen rows."""
    folder = tmp_path_factory.mktemp("trained")
    tokenizer = build_word_tokenizer()
    sets = {}
    for name, records in generate_splits([Automaton(LOCK, 5), Automaton(LOCK, 7)], 2000, 0, 1000, seed=0).items():
        write_records(folder / f"{name}.txt", records)
        config = DataConfig(cache_dir=str(folder / "cache"))
        sets[name] = load_examples(str(folder / f"{name}.txt"), "", config, FORMAT, tokenizer)
    shape = {"hidden_size": 64, "num_attention_heads": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = build("gpt2", vocab_size=len(tokenizer), initializer_range=0.02, **shape)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = np.random.default_rng(0)
    for _ in range(100):
        chosen = sets["train"].take(generator.integers(0, len(sets["train"]), 32))
        batch = collate([assemble_row(example, sets["train"].layout) for example in chosen], sets["train"].layout)
        loss, _ = token_loss_sum(model, batch, torch.device("cpu"))
        (loss / (batch.labels != IGNORE_INDEX).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer, sets["test"]


def test_a_half_trained_model_gets_the_same_verdicts(trained: Trained) -> None:
    model, tokenizer, examples = trained
    with counted(model) as passes:
        verified = evaluate(model, tokenizer, examples, SPEC, 256)
    with counted(model) as plain_passes:
        plain = evaluate(model, tokenizer, examples, SPEC, 256, verify=False)
    assert verified == plain
    assert len(passes) < len(plain_passes)
    assert sum(shape.numel() for shape in passes) < 1.2 * sum(shape.numel() for shape in plain_passes)
    prompts, max_new_tokens = make_prompts(examples, SPEC)
    references = make_references(examples, SPEC, range(len(examples)))
    written = greedy_decode(model, prompts, examples.layout, max_new_tokens, 256)
    num_wrong = [
        sum(a != b for a, b in zip(ids, reference, strict=False))
        for ids, reference in zip(written, references, strict=True)
    ]
    assert min(num_wrong.count(0), num_wrong.count(1), sum(number > 2 for number in num_wrong)) > 20  # all kinds occur


@pytest.mark.parametrize(
    ("changes", "keep_second_separator"),
    [
        ({"num_removed": 3}, True),
        ({"num_removed": 3, "side": "right", "keep_positions": True, "longest_cot": 7}, True),
        ({"num_removed": 3, "right_first": 2, "keep_positions": True, "longest_cot": 7}, True),
        ({"num_removed": 6, "keep_positions": True, "longest_cot": 7}, False),  # some rows have a CoT, others none
        ({"removes_all": True, "keep_positions": True, "longest_cot": 7}, False),
    ],
)
def test_both_ways_agree_at_every_stage(trained: Trained, changes: dict, keep_second_separator: bool) -> None:
    model, tokenizer, examples = trained
    layout = dataclasses.replace(examples.layout, keep_second_separator=keep_second_separator)
    rows, spec = ExampleSet(examples.rows, layout).head(300), dataclasses.replace(SPEC, **changes)
    verified, plain = (evaluate(model, tokenizer, rows, spec, 64, verify=verify) for verify in (True, False))
    assert verified == plain


def test_references_are_what_is_left_of_the_rows(trained: Trained) -> None:
    _, _, examples = trained
    spec = dataclasses.replace(SPEC, num_removed=6)
    (short,), (long,) = ([e for e in examples.take(range(50)) if len(e.cot_ids) == n][:1] for n in (5, 7))
    rows = list(examples.take(range(50)))
    separator = examples.layout.second_separator_ids
    expected = [[*separator, *short.answer_ids], [*long.cot_ids[6:], *separator, *long.answer_ids]]
    assert make_references(examples, spec, [rows.index(short), rows.index(long)]) == expected
    layout = dataclasses.replace(examples.layout, keep_second_separator=False)
    dropped = make_references(ExampleSet(examples.rows, layout), spec, [rows.index(short)])
    assert dropped == [list(short.answer_ids)]
    both_ends = dataclasses.replace(spec, right_first=4)
    (reference,) = make_references(examples, both_ends, [rows.index(long)])
    assert reference == [*long.cot_ids[2:3], *separator, *long.answer_ids]


def test_speed_at_batch_one_never_sees_a_reference(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, examples = trained

    def refuse(*_: object) -> Callable:
        raise AssertionError("verified")

    monkeypatch.setattr(evaluation, "verified_decode", refuse)
    monkeypatch.setattr(evaluation, "make_references", refuse)
    assert speeds_at_batch_one([Contestant(model, tokenizer, examples, SPEC)], 2)[0] > 0
    evaluate(model, tokenizer, examples.head(4), SPEC, 4, verify=False)
    with pytest.raises(AssertionError, match="verified"):
        evaluate(model, tokenizer, examples.head(4), SPEC, 4)
