"""What the page shows of answers, as HTML; every text of a user or a model is escaped. Pure."""

import html
from collections.abc import Mapping, Sequence

from pipeline.answering import RIGHT, WRONG, Answer

STYLE = """
.gradio-container {max-width: 46rem !important; margin: 0 auto !important}
.gradio-container .main {padding: 1rem !important}
.answer .html-container, .bars .html-container {padding: 0}
#stage-name {background: var(--block-background-fill)}
.answer dl {display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; margin: 0}
.answer dt {opacity: .8}
.answer dd {margin: 0; overflow-wrap: anywhere}
.answer .big {font-size: 1.4rem; font-weight: 600; line-height: 1.3}
.answer .cot {font-family: ui-monospace, monospace; opacity: .8}
.verdict {display: block; font-weight: 600}
.right {color: #166534}
.wrong, .fault {color: #b91c1c}
.dark .right {color: #86efac}
.dark .wrong, .dark .fault {color: #fca5a5}
.bars table {width: 100%; margin: 0; border: 0 !important; border-collapse: collapse; font-size: .875rem}
.bars caption {padding-bottom: .4rem; text-align: left; overflow-wrap: anywhere}
.bars th, .bars td {padding: .4rem .6rem .4rem 0; border: 0; text-align: left; vertical-align: top; font-weight: 400}
.bars tr {border: 0; border-bottom: 1px solid var(--border-color-primary)}
.bars th[scope=row] {width: 45%}
.bars td {overflow-wrap: anywhere}
.bars .number {text-align: right; white-space: nowrap; overflow-wrap: normal}
.bars .number:last-child {padding-right: 0}
.bars .bar {display: block; height: .6rem; margin-top: .3rem; border-radius: .2rem; background: #2563eb}
.dark .bars .bar {background: #60a5fa}
"""


def safe(text: str) -> str:
    """Escape a text for HTML that Gradio takes for a template as well."""
    return html.escape(text).translate({ord(sign): f"&#{ord(sign)};" for sign in "${}"})


def show_answer(answer: Answer, name: str) -> str:
    """Return an answer with its chain of thought and cost.

    Args:
        answer: Of one stage.
        name: The stage's.
    """
    rows = [("Answer", f'<span class="big">{_shown(answer)}</span>{_colour(answer, answer.verdict)}')]
    if answer.asked != answer.question:
        rows.append(("Asked as", safe(answer.asked)))
    cot = safe(answer.cot) or "none"
    rows.append(("Chain of thought", f'<span class="cot">{cot}</span>'))
    of_cot = f", {answer.num_cot_tokens} of them chain of thought" if answer.num_cot_tokens else ""
    rows.append(("Tokens written", f"{answer.num_tokens}{of_cot}"))
    rows.append(("Time", f"{answer.milliseconds:.1f} ms"))
    rows.append(("Stage", safe(name)))
    return f"<dl>{''.join(f'<dt>{term}</dt><dd>{text}</dd>' for term, text in rows)}</dl>"


def show_fault(fault: str) -> str:
    """Return what was wrong with a question."""
    return f'<p class="fault">{safe(fault)}</p>'


def show_bars(answers: Mapping[int, Answer], names: Sequence[str]) -> str:
    """Return the times of the stages asked so far as a table with bars.

    Args:
        answers: To one question, by the number of the stage; may be empty.
        names: Of all stages.
    """
    if not answers:
        return ""
    longest = max(answer.milliseconds for answer in answers.values())
    rows = [
        f'<tr><th scope="row">{safe(names[number])}'
        f'<span class="bar" aria-hidden="true" style="width: {100 * answer.milliseconds / longest:.1f}%"></span></th>'
        f"<td>{_shown(answer)}{_colour(answer, RIGHT if answer.correct else WRONG)}</td>"
        f'<td class="number">{answer.num_tokens}</td><td class="number">{answer.milliseconds:.1f}</td></tr>'
        for number, answer in sorted(answers.items())
    ]
    question = safe(next(iter(answers.values())).question)
    return (
        f"<table><caption>Time to answer {question}</caption><thead><tr>"
        '<th scope="col">Stage</th><th scope="col">Answer</th><th scope="col" class="number">Tokens</th>'
        f'<th scope="col" class="number">ms</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _shown(answer: Answer) -> str:
    return safe(answer.shown) or "(nothing)"


def _colour(answer: Answer, verdict: str) -> str:
    """Return a verdict in its colour, or nothing where none is known."""
    if answer.correct is None:
        return ""
    return f' <span class="verdict {"right" if answer.correct else "wrong"}">{verdict}</span>'
