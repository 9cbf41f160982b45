"""Tokenizers made as GPT-2's is, small enough to be trained in a test."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
CORPUS = [" 0 1 2 3 4 5 6 7 8 9 + * ( ) #### = <<1+2=3>> <<4*5=20>> a=>b how many apples"] * 20


def build_gpt2_style(trim_offsets: bool = False, vocab_size: int = 330) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE whose one special token is end, beginning and unknown, as GPT-2's is."""
    tokenizer = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), vocab_size)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, unk_token=END)


def train_bpe(pre_tokenizer: pre_tokenizers.PreTokenizer, vocab_size: int = 330, all_bytes: bool = True) -> Tokenizer:
    """Train a BPE on ``CORPUS``; without ``all_bytes`` it drops characters that it has not seen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else [],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
