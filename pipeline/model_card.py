"""The README of an exported model: what it is, and what its user must know to ask it."""

from transformers import PretrainedConfig

from pipeline.answer_spec import AnswerSpec


def model_card(spec: AnswerSpec, config: PretrainedConfig) -> str:
    """Return the card as Markdown.

    Args:
        spec: How the model is to be asked.
        config: Of the exported model.
    """
    form = spec.format
    prompt = f"{form.question}{form.first_separator}".replace("{question}", "YOUR QUESTION")
    state = (
        "It writes the answer at once: every token of the chain of thought was removed in training."
        if spec.removes_all
        else f"{spec.num_removed} {spec.unit}s of the chain of thought were removed in training, from the {spec.side}."
    )
    notes = []
    if spec.keep_positions and spec.shift:
        notes.append(
            f"**`position_ids` are required.** From the first separator on they are {spec.shift} higher than the count "
            "of tokens. Plain `generate()` without them answers wrongly; `tacit evaluate` passes them."
        )
    if spec.built_in_shift:
        notes.append(
            f"{spec.built_in_shift} rows of the position table were taken out, so that plain `generate()` is exact, "
            f"for questions of {spec.question_length} tokens and no others."
        )
    if form.second_separator == form.end and form.keep_second_separator:
        notes.append(
            "The separator before the answer is the end token too: `generate()` must stop at the second one, not at "
            "the first. `tacit evaluate` does."
        )
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [implicit-chain-of-thought, stepwise-internalization]",
            "---",
            "",
            f"# A {config.model_type} model trained by stepwise internalization (arXiv:2405.14838)",
            "",
            state,
            "",
            "Ask it with this prompt, then decode greedily:",
            "",
            f"    {prompt!r}",
            "",
            "`{bos}` and `{eos}` stand for the tokenizer's special tokens. `tacit.json` holds all of the format.",
            *(f"\n- {note}" for note in notes),
            "",
        ]
    )
