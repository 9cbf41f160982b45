"""How plain research code reads a file of rows: line by line, a tokenizer call for each, all of it in Python lists.

The code published with arXiv:2405.14838 tokenises a row in one call (``read_by_row``). Code that needs the parts apart
makes a call for each (``read_by_part``). Neither checks a row, and neither keeps anything for the next start.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase


def read_by_row(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the ids of every row, written as in the paper: `` question <eos> cot <eos> #### answer <eos>``."""
    rows = []
    for question, cot, answer in _read_lines(path):
        eos = tokenizer.eos_token
        text = f" {question} {eos} {cot} {eos} {answer} {eos}"
        rows.append(tokenizer([text], add_special_tokens=True)["input_ids"][0])
    return rows


def read_by_part(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the same, from a call for each of question, CoT and answer."""
    separator = [tokenizer.eos_token_id]
    rows = []
    for question, cot, answer in _read_lines(path):
        ids = (tokenizer(f" {text} ", add_special_tokens=True)["input_ids"] for text in (question, cot, answer))
        rows.append([token for part in ids for token in part + separator])
    return rows


def _read_lines(path: Path) -> list[tuple[str, str, str]]:
    with path.open(encoding="utf-8") as file:
        lines = [line.strip().split("||") for line in file.readlines() if line.strip() and len(line.split("||")) == 2]
    rows = []
    for question, target in lines:
        cot, answer = target.split("####", 1)
        rows.append((question.strip(), cot.strip(), "#### " + answer.strip().replace(",", "")))
    return rows
