"""Tacit: teaches a language model to answer without writing its reasoning (arXiv:2405.14838)."""
