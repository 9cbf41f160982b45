"""The built-in tokenizer of the synthetic tasks: one token a digit, letter or sign, words split at blanks."""

import string

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
VOCABULARY = (PAD, EOS, UNKNOWN, *string.digits, *string.ascii_lowercase, *"+-*/%=()|&^,.:", "####")


def build_word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a fast tokenizer over ``VOCABULARY`` that saves and loads as any Hugging Face tokenizer.

    A word outside the vocabulary becomes ``<unk>``, which the preparation of examples refuses. Decoding puts one blank
    between words.
    """
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=1_000_000,
    )
