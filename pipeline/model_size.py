"""How large a model is. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What memory and arithmetic depend on."""

    num_weights: int
    num_trained: int
    weight_bytes: int
    """Of all weights as they are stored, whole."""
    parameter_sizes: tuple[int, ...]
    """Weights in each parameter tensor."""
    largest_trained: int
    """Weights in the largest trained parameter."""
    largest_dequantized: int
    """Weights in the largest matrix that is stored in fewer bits and unpacked to be used; 0 without quantisation."""
    matrix_trained: int
    """Trained weights that every token is multiplied with: no embeddings, no output head."""
    matrix_frozen: int
    head_weights: int
    """Vocabulary times hidden size."""
    head_trained: bool
    num_layers: int
    attention_width: int
    """Attention heads times their width."""
    hidden_size: int
    vocabulary_size: int
