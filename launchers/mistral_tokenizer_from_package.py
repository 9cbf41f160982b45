"""Writes Mistral's tokenizer as a Hugging Face folder, from a SentencePiece file in PyPI's ``mistral-common``.

For machines without a model hub: to measure token lengths, plan, and rehearse. Where the hub can be reached,
`mistralai/Mistral-7B-v0.1` brings its tokenizer along.

    pip install sentencepiece && pip install --no-deps mistral-common
    python launchers/mistral_tokenizer_from_package.py models/mistral-tokenizer
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from transformers import LlamaTokenizer
from transformers.convert_slow_tokenizer import generate_merges

FILE_NAME = "tokenizer.model.v1"  # of the first 7B model: 32,000 pieces


def main() -> int:
    """Convert, and return 0; 2 if a package is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="Folder to write.")
    output_dir = parser.parse_args().output_dir
    # Only a file of the package is read, so that its own requirements need not be installed.
    package = importlib.util.find_spec("mistral_common")
    if package is None or package.origin is None or importlib.util.find_spec("sentencepiece") is None:
        install = "pip install sentencepiece && pip install --no-deps mistral-common"
        print(f"mistral-common or sentencepiece is not installed; {install}", file=sys.stderr)
        return 2
    tokenizer = convert(Path(package.origin).parent / "data" / FILE_NAME)
    tokenizer.save_pretrained(output_dir)
    print(f"wrote {output_dir} ({len(tokenizer):,} tokens)")
    return 0


def convert(model_file: Path) -> LlamaTokenizer:
    """Return the fast tokenizer of a SentencePiece BPE file, which puts its ``<s>`` in front of a text."""
    from sentencepiece import SentencePieceProcessor  # not a requirement of the pipeline

    pieces = SentencePieceProcessor(model_file=str(model_file))
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    # SentencePiece merges by score. Transformers' own conversion goes by id, and so merges runs of blanks too early.
    scores = {
        piece: pieces.get_score(i)
        for piece, i in vocabulary.items()
        if not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))
    }
    merges = generate_merges(vocabulary, scores)
    return LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True, add_eos_token=False)


if __name__ == "__main__":
    sys.exit(main())
