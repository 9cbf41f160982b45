"""The paper's own figures, to stand beside ours. Source: arXiv:2405.14838, tables of the main results."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PaperResult:
    """Accuracies of one task and model; None where the paper has none."""

    task: str
    model: str
    cot_tokens: int | None
    """In the longest row's full CoT."""
    no_cot: float | None
    internalized: float
    explicit_cot: float | None
    explicit_speed: float | None
    """Of explicit CoT at batch size 1, No CoT being 1."""
    note: str = ""


GPT2, MEDIUM, PHI3, MISTRAL = "GPT-2 Small", "GPT-2 Medium", "Phi-3 3.8B", "Mistral 7B"
RESULTS = (
    PaperResult("4x4 multiplication", GPT2, 46, 0.29, 1.00, 1.00, 0.17),
    PaperResult("5x5 multiplication", GPT2, 74, 0.01, 0.95, 1.00, 0.14, "released weights .996"),
    PaperResult("7x7 multiplication", GPT2, 148, 0.00, 0.95, 1.00, 0.12),
    PaperResult("9x9 multiplication", GPT2, 246, 0.00, 0.99, 1.00, 0.09),
    PaperResult("11x11 multiplication", GPT2, 368, None, 0.739, None, None, "320 of 368 tokens removed"),
    PaperResult("GSM8K", GPT2, None, 0.13, 0.30, 0.41, None),
    PaperResult("GSM8K", MEDIUM, None, 0.17, 0.35, 0.44, None),
    PaperResult("GSM8K", PHI3, None, 0.28, 0.31, 0.74, None),
    PaperResult("GSM8K", MISTRAL, None, 0.38, 0.51, 0.68, None),
)

POINT_ACCURACY = 0.739
"""11x11 multiplication, GPT-2 Small, 320 of 368 CoT tokens removed: about 1/7 of the CoT is left."""
POINT_SPEEDUP = 4.0
"""The same, against explicit CoT."""
POINT_LABEL = "paper: 11x11, 1/7 of the CoT left"
