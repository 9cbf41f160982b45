"""Greedy decoding in batches, against decoding by hand, one token at a time."""

import warnings

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from pipeline.config import LoraConfig, ModelConfig
from pipeline.decoding import Prompt, cut_at_end, greedy_decode, split_continuation
from pipeline.layout import EXTRA_TOKENS, SequenceLayout, assemble_prompt
from pipeline.modeling import build_model
from pipeline.word_tokenizer import build_word_tokenizer

END, PAD = 1, 0
LAYOUT = SequenceLayout((END,), (END,), END, PAD)
MAX_NEW_TOKENS = 20
QUESTIONS = [(3, 4, 5, 6, 7, 8, 9), (3,), (10, 2), (5, 5, 5, 4), (11, 3), (7, 8, 9)]


@torch.no_grad()
def decode_by_hand(
    model: PreTrainedModel, question: tuple[int, ...], shift: int, num_end_tokens: int, max_new_tokens: int
) -> list[int]:
    """Run the whole row through the model for each token: no cache, no padding, positions written out."""
    ids = [*question, END]
    positions = [*range(len(question)), len(question) + shift]
    written: list[int] = []
    while len(written) < max_new_tokens:
        logits = model(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            position_ids=torch.tensor([positions]),
            use_cache=False,
        ).logits
        token = int(logits[0, -1].argmax())
        if token == END and written.count(END) == num_end_tokens - 1:
            return written
        written.append(token)
        ids.append(token)
        positions.append(positions[-1] + 1)
    return written


def prompts(shift: int, num_end_tokens: list[int]) -> list[Prompt]:
    return [
        Prompt(assemble_prompt(question, LAYOUT, shift), ends)
        for question, ends in zip(QUESTIONS, num_end_tokens, strict=True)
    ]


@pytest.mark.parametrize("shift", [0, 17])
@pytest.mark.parametrize(("batch_size", "pad_id"), [(1, PAD), (4, PAD), (6, PAD), (6, END)])
def test_equals_decoding_by_hand(tiny_model: PreTrainedModel, shift: int, batch_size: int, pad_id: int) -> None:
    ends = [2, 1, 2, 3, 1, 2]
    # Where padding is the end token, only the mask tells it from the separator.
    layout = SequenceLayout((END,), (END,), END, pad_id)
    written = greedy_decode(tiny_model, prompts(shift, ends), layout, MAX_NEW_TOKENS, batch_size)
    expected = [
        decode_by_hand(tiny_model, question, shift, count, MAX_NEW_TOKENS)
        for question, count in zip(QUESTIONS, ends, strict=True)
    ]
    assert written == expected
    assert len({tuple(ids) for ids in written}) > 2  # the questions matter, or equality would say little


def test_kept_positions_matter(tiny_model: PreTrainedModel) -> None:
    unshifted, shifted = (greedy_decode(tiny_model, prompts(s, [9] * 6), LAYOUT, MAX_NEW_TOKENS, 6) for s in (0, 17))
    assert unshifted != shifted


class Scripted:
    """Makes a model write given tokens: the n-th at the n-th place after the prompt, whatever was asked."""

    def __init__(self, model: PreTrainedModel, scripts: list[list[int]]) -> None:
        self.scripts, self.place = scripts, -1
        self.hook = model.get_output_embeddings().register_forward_hook(self._write)

    def _write(self, _module: object, _inputs: object, logits: torch.Tensor) -> torch.Tensor:
        self.place += 1
        scripted = torch.zeros_like(logits)
        for row, script in enumerate(self.scripts):
            scripted[row, -1, script[self.place] if self.place < len(script) else 2] = 1.0
        return scripted


E1 = END
SCRIPTS = [
    # (written, end tokens in a full continuation, expected)
    ([5, E1, 6, E1, 7, 7], 2, [5, E1, 6]),
    ([5, E1, 6, E1, 7, 7], 1, [5]),
    ([E1, 6, E1, 7, 7, 7], 2, [E1, 6]),
    ([E1, E1, 7, 7, 7, 7], 2, [E1]),
    ([E1, 7, 7, 7, 7, 7], 1, []),
    ([5, 6, 7, E1, 8, 8], 2, [5, 6, 7, E1, 8, 8]),  # never got there: all of it
]


def decode_scripts(model: PreTrainedModel) -> tuple[list[list[int]], int]:
    """Decode all scripts in one batch; returns what was written, and in how many forward passes."""
    script = Scripted(model, [ids for ids, _, _ in SCRIPTS])
    same_length = [Prompt(assemble_prompt((3,), LAYOUT), ends) for _, ends, _ in SCRIPTS]
    written = greedy_decode(model, same_length, LAYOUT, max_new_tokens=6, batch_size=len(SCRIPTS))
    script.hook.remove()
    return written, script.place + 1


def test_each_row_stops_at_its_own_number_of_end_tokens(tiny_model: PreTrainedModel) -> None:
    assert decode_scripts(tiny_model)[0] == [expected for _, _, expected in SCRIPTS]


@pytest.mark.parametrize(
    "own_settings",
    [
        # What every model that the package builds carries, so that plain generate() stops: build_model, in modeling.
        GenerationConfig(do_sample=False, eos_token_id=END, pad_token_id=PAD),
        GenerationConfig(do_sample=False, eos_token_id=[END, 7], pad_token_id=END),
    ],
    ids=["end", "several"],
)
def test_the_models_own_end_token_stops_nothing(tiny_model: PreTrainedModel, own_settings: GenerationConfig) -> None:
    # With the end token as separator, a row would be cut before its answer.
    tiny_model.generation_config = own_settings
    assert decode_scripts(tiny_model)[0] == [expected for _, _, expected in SCRIPTS]


def test_decoding_stops_when_every_row_has(tiny_model: PreTrainedModel) -> None:
    short = [Prompt(assemble_prompt((3,), LAYOUT), 1)] * 2
    script = Scripted(tiny_model, [[5, E1], [E1]])
    assert greedy_decode(tiny_model, short, LAYOUT, max_new_tokens=50, batch_size=2) == [[5], []]
    script.hook.remove()
    assert script.place + 1 == 2


def test_nothing_is_decoded_for_no_prompt(tiny_model: PreTrainedModel) -> None:
    assert greedy_decode(tiny_model, [], LAYOUT, MAX_NEW_TOKENS, 4) == []


def test_a_model_with_just_enough_positions_does_not_crash() -> None:
    """A wrong answer may be longer than any right one; it ends where the model does."""
    longest_row = 12
    from_scratch = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": longest_row}
    tokenizer = build_word_tokenizer()
    model = build_model(
        ModelConfig(from_scratch=from_scratch), LoraConfig(), tokenizer, longest_row, 1, torch.float32, seed=0
    )
    # question 4, separator, target 7 that the model does not know how to end; a row with more room beside it
    rows = [Prompt(assemble_prompt(question, LAYOUT), num_end_tokens=99) for question in ((3, 4, 5, 6), (3,))]
    written = greedy_decode(model.eval(), rows, LAYOUT, 7 + EXTRA_TOKENS, batch_size=2)
    assert [len(ids) for ids in written] == [longest_row - 5, longest_row - 2]


def test_decoding_is_quiet(tiny_model: PreTrainedModel, caplog: pytest.LogCaptureFixture) -> None:
    # A warning for each batch would bury the run's own lines.
    with warnings.catch_warnings(record=True) as caught:
        greedy_decode(tiny_model, prompts(0, [1] * 6), LAYOUT, 3, 2)
    assert [str(warning.message) for warning in caught] == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("ids", "num_end_tokens", "expected"),
    [
        ([5, 1, 6, 1, 7], 1, [5]),
        ([5, 1, 6, 1, 7], 2, [5, 1, 6]),
        ([5, 1, 6, 1, 7], 3, [5, 1, 6, 1, 7]),
        ([1, 1], 2, [1]),
        ([1], 1, []),
        ([], 1, []),
        ([5, 6], 1, [5, 6]),
    ],
)
def test_cut_at_end(ids: list[int], num_end_tokens: int, expected: list[int]) -> None:
    assert cut_at_end(ids, END, num_end_tokens) == expected


@pytest.mark.parametrize(
    ("separator", "ids", "cot", "answer"),
    [
        ((8,), [5, 6, 8, 7], [5, 6], [7]),
        ((8,), [8, 7], [], [7]),  # the CoT is gone, its separator is there
        ((8,), [5, 8, 6, 8, 7], [5, 8, 6], [7]),  # the last one counts
        ((8,), [5, 6], [], [5, 6]),  # never written: all is answer
        ((8,), [5, 8], [5], []),
        ((8, 9), [5, 8, 8, 9, 7], [5, 8], [7]),
        ((8, 9), [5, 8, 7, 9], [], [5, 8, 7, 9]),
        ((8, 9), [8], [], [8]),
        ((), [5, 6], [], [5, 6]),
        ((END,), [5, END, 7], [5], [7]),
        ((8,), [], [], []),
    ],
)
def test_split_continuation(separator: tuple[int, ...], ids: list[int], cot: list[int], answer: list[int]) -> None:
    assert split_continuation(ids, SequenceLayout((2,), separator, END, PAD)) == (cot, answer)
