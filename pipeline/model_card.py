"""The README of an exported model: what it is, how good, where it comes from, and how it is asked."""

from huggingface_hub import EvalResult, ModelCardData
from transformers import PretrainedConfig

from pipeline.answer_spec import AnswerSpec
from pipeline.provenance import Provenance

FRONTIER_PICTURE = "frontier.png"


def model_card(spec: AnswerSpec, config: PretrainedConfig, origin: Provenance, name: str, license_name: str) -> str:
    """Return the card as Markdown, with metadata that the Hub reads.

    Args:
        spec: How the model is to be asked.
        config: Of the exported model.
        origin: What its run tells.
        name: Of the model.
        license_name: In the metadata; empty leaves it out.
    """
    parts = [
        f"---\n{_metadata(origin, name, license_name)}\n---",
        f"# {name}: a {config.model_type} model trained by stepwise internalization (arXiv:2405.14838)",
        _state(spec),
        _base(origin, license_name),
        *_accuracy(origin),
        _prompt(spec),
        *(f"- {note}" for note in _notes(spec)),
        *_recipe(origin),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(origin: Provenance, name: str, license_name: str) -> str:
    results = None
    if origin.accuracy is not None:
        results = [
            EvalResult(
                task_type="text-generation",
                dataset_type=origin.validation,
                dataset_name=f"{origin.validation} (validation)",
                metric_type="accuracy",
                metric_value=round(origin.accuracy, 4),
            )
        ]
    data = ModelCardData(
        model_name=name,
        base_model=origin.base_model or None,
        license=license_name or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["implicit-chain-of-thought", "stepwise-internalization"],
        eval_results=results,
    )
    return data.to_yaml()


def _state(spec: AnswerSpec) -> str:
    if spec.removes_all:
        return "It writes the answer at once: every token of the chain of thought was removed in training."
    ends = f"the right, at most {spec.right_first}, then from the left" if spec.right_first else f"the {spec.side}"
    return f"{spec.num_removed} {spec.unit}s of the chain of thought were removed in training, from {ends}."


def _base(origin: Provenance, license_name: str) -> str:
    if not origin.base_model:
        return "Its weights were trained from scratch." if origin.recipe else "Its run is not known."
    under = f", under the licence {license_name}" if license_name else "; the licence is the base's, look it up there"
    return f"Trained from `{origin.base_model}`{under}."


def _accuracy(origin: Provenance) -> list[str]:
    parts = []
    if origin.accuracy is not None:
        parts.append(
            f"Exact match on {origin.num_examples} validation rows (`{origin.validation}`, by which a run chooses its "
            f"model): {100 * origin.accuracy:.1f} %, with {origin.cot_tokens:.1f} CoT tokens written."
        )
    if origin.frontier is not None:
        rows = [
            f"| {point['num_removed']} | {100 * point['accuracy']:.1f} % | {point['cot_tokens']:.1f} "
            f"| {point['latency_ms']:.1f} | {point['speedup']:.2f}x |"
            for point in origin.frontier["points"]
        ]
        parts.append(
            f"The stages of its run on {origin.frontier['num_examples']} unseen rows:\n\n"
            f"![Accuracy against speed of every kept stage]({FRONTIER_PICTURE})\n\n"
            "| removed | accuracy | CoT tokens written | ms at batch 1 | speed-up |\n|---|---|---|---|---|\n"
            + "\n".join(rows)
        )
    return parts


def _prompt(spec: AnswerSpec) -> str:
    form = spec.format
    if form.question == "{chat}":
        behind = f", with {form.first_separator!r} behind the prompt" if form.first_separator else ""
        plain = "" if behind else ': `pipeline("text-generation", model)(messages)` of Transformers does both'
        asked = f"Ask it through its chat template{behind}, then decode greedily{plain}."
        return f"{asked} `tacit.json` holds all of the format."
    prompt = f"{form.question}{form.first_separator}".replace("{question}", "YOUR QUESTION")
    return (
        f"Ask it with this prompt, then decode greedily:\n\n    {prompt!r}\n\n`{{bos}}` and `{{eos}}` stand for the "
        "tokenizer's special tokens. `tacit.json` holds all of the format."
    )


def _notes(spec: AnswerSpec) -> list[str]:
    form, notes = spec.format, []
    if spec.shift:
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
        remedy = (
            f"End the prompt with it, `{form.first_separator}{form.second_separator}`, and `generate()` stops rightly."
            if spec.removes_all
            else "`tacit evaluate` does."
        )
        notes.append(
            "The separator before the answer is the end token too: `generate()` must stop at the second one, not at "
            f"the first. {remedy}"
        )
    return notes


def _recipe(origin: Provenance) -> list[str]:
    if not origin.recipe:
        return []
    return [f"<details><summary>Recipe</summary>\n\n```yaml\n{origin.recipe.rstrip()}\n```\n\n</details>"]
