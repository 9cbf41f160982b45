"""Greedy decoding that is given the reference answer as a guess, so that what agrees needs no pass of its own.

The reference only saves work. What is written is what greedy decoding writes: every token is the model's own argmax
behind its own tokens, and a guess that differs from it is thrown away.

Source: speculative decoding (arXiv:2211.17192) without sampling, the reference in place of a smaller model.
"""

from pipeline.verification.decode import verified_decode

__all__ = ["verified_decode"]
