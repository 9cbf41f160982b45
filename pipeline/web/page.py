"""The page itself, in Gradio."""

import os
from collections.abc import Iterator
from typing import Any

from pipeline.answering import Answer
from pipeline.errors import UserError
from pipeline.web.html import safe, show_answer, show_bars, show_fault
from pipeline.web.stages import Stages

MOST_CHARACTERS = 10_000
# A screen reader tells what appears there.
ANNOUNCE = "element.setAttribute('aria-live', 'polite'); element.setAttribute('role', 'status');"
Answers = dict[int, Answer]


def import_gradio() -> Any:
    """Return Gradio, which is told first to call nobody.

    Raises:
        UserError: If it is not installed.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    try:
        import gradio
    except ImportError as error:
        raise UserError("tacit web needs Gradio, which is not installed; pip install gradio.") from error
    return gradio


def build_page(stages: Stages) -> Any:
    """Return the page as Gradio's blocks.

    Args:
        stages: Are asked.

    Raises:
        UserError: If Gradio is not installed.
    """
    gr = import_gradio()
    last = len(stages.names) - 1

    def ask(question: str, number: float, answers: Answers) -> tuple[str, str, Answers]:
        number = int(number)
        try:
            answer = stages.answer(number, question)
        except UserError as error:
            return show_fault(str(error)), show_bars(answers, stages.names), answers
        answers = _with(answers, number, answer)
        return show_answer(answer, stages.names[number]), show_bars(answers, stages.names), answers

    def ask_all(question: str, answers: Answers) -> Iterator[tuple[str, str, Answers]]:
        for number in range(len(stages.names)):
            shown, bars, answers = ask(question, number, answers)
            yield shown, bars, answers

    with gr.Blocks(title="Tacit: ask a model", analytics_enabled=False) as page:
        gr.Markdown("# Ask a model")
        question = gr.Textbox(label="Question", autofocus=True, max_length=MOST_CHARACTERS)
        if examples := stages.examples():
            gr.Examples([[example] for example in examples], question, label="Examples")
        with gr.Group():
            slider = gr.Slider(0, max(last, 1), last, step=1, label=f"Stage, 0 to {last}", buttons=[], visible=last > 0)
            name = gr.HTML(safe(stages.names[last]), elem_id="stage-name", js_on_load=ANNOUNCE, padding=True)
        with gr.Row(equal_height=True):
            one = gr.Button("Ask", variant="primary")
            all_stages = gr.Button("Ask every stage", visible=last > 0)
        answer = gr.HTML(elem_id="answer", elem_classes="answer", js_on_load=ANNOUNCE)
        bars = gr.HTML(elem_id="bars", elem_classes="bars")
        answers = gr.State({})
        hidden: dict[str, Any] = {"api_visibility": "private"}
        slider.change(lambda number: safe(stages.names[int(number)]), slider, name, show_progress="hidden", **hidden)
        gr.on([question.submit, one.click], ask, [question, slider, answers], [answer, bars, answers], **hidden)
        all_stages.click(ask_all, [question, answers], [answer, bars, answers], **hidden)
    return page


def _with(answers: Answers, number: int, answer: Answer) -> Answers:
    """Return the answers to one question, with another of them; those to an earlier question go."""
    kept = {key: value for key, value in answers.items() if value.question == answer.question}
    return {**kept, number: answer}
