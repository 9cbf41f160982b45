"""How much arithmetic training takes. Pure."""

from pipeline.model_size import ModelSize


def training_flops(
    size: ModelSize, num_tokens: float, num_labels: float, sum_of_squares: float, gradient_checkpointing: bool
) -> float:
    """Return the floating-point operations of forward and backward passes.

    A multiplication and an addition count as two. For each token: 2 for every weight of a matrix in the forward pass, 2
    in the backward pass for what flows on, and 2 for the weight's own gradient if it is trained; so 6 N for full
    finetuning, 4 N for the frozen base under adapters. Attention multiplies every token with every token of its row,
    twice forward and four times backward: 12 x layers x width x length for each token, without a discount for the
    causal half, as the convention for MFU has it. The output head works at labels only. Gradient checkpointing repeats
    the layers' forward pass (PyTorch leaves out each layer's last matrix; that is not deducted). Embeddings are looked
    up and cost nothing; the optimizer's few operations are left out.

    Args:
        size: Of the model.
        num_tokens: Unpadded tokens.
        num_labels: Tokens that carry loss.
        sum_of_squares: Of the row lengths.
        gradient_checkpointing: Whether the forward pass is done twice.

    Source: arXiv:2204.02311, appendix B (PaLM), for the terms and for MFU.
    """
    passes = 2 + gradient_checkpointing  # forward, backward, forward again: 2 operations a weight each
    matrices = 2 * passes * (size.matrix_trained + size.matrix_frozen) + 2 * size.matrix_trained
    attention = 4 * size.num_layers * size.attention_width * (passes + 1)  # backward counts twice: two matrices each
    head = (6 if size.head_trained else 4) * size.head_weights
    return matrices * num_tokens + attention * sum_of_squares + head * num_labels
