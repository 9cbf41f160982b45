"""What the figures show, in words, for those who do not see them."""

from collections.abc import Sequence

from pipeline.report.analysis import spread, standing_evaluations
from pipeline.report.figures import curve
from pipeline.report.resets import Reset
from pipeline.report.run import Run
from pipeline.report.summary import Summary, percent

NamedRuns = Sequence[tuple[str, Run]]


def loss_words(runs: NamedRuns) -> str:
    """Describe the figure of the loss."""
    texts = []
    for name, run in runs:
        points = curve(run.train, "loss")
        if points:
            (first, begin), (last, end) = points[0], points[-1]
            texts.append(
                f"{name}: loss {begin:.3g} at step {first:,}, {end:.3g} at step {last:,}, "
                f"lowest {min(loss for _, loss in points):.3g}; {len(run.resets)} optimizer resets"
            )
    return _sentence("Training loss over optimizer steps, and units removed.", texts)


def accuracy_words(runs: NamedRuns) -> str:
    """Describe the figure of the accuracy over steps."""
    texts = []
    for name, run in runs:
        if run.evaluations:
            last = run.evaluations[-1]
            best = max(run.evaluations, key=lambda row: row["accuracy"])
            texts.append(
                f"{name}: {percent(last['accuracy'])} at step {last['step']:,}, the last of "
                f"{len(run.evaluations)} evaluations; highest {percent(best['accuracy'])} at step {best['step']:,}"
            )
    return _sentence("Validation accuracy over optimizer steps.", texts)


def removal_words(runs: NamedRuns) -> str:
    """Describe the figure of accuracy against units removed."""
    texts = []
    for name, run in runs:
        rows = standing_evaluations(run)
        if rows:
            shown = (f"{percent(row['accuracy'])} with {row['num_removed']} removed" for row in spread(rows, 2))
            texts.append(f"{name}: {', '.join(shown)}")
    return _sentence("Validation accuracy against CoT units removed.", texts)


def frontier_words(summaries: Sequence[Summary]) -> str:
    """Describe the figure of the frontier, or the one that stands for it."""
    texts = []
    for summary in summaries:
        frontier = summary.run.frontier
        points = frontier["points"] if frontier else []
        ends = [
            f"{percent(point['accuracy'])} at {point['speedup']:.2f}x with {point['num_removed']} removed"
            for point in spread(points, 2)
        ]
        recommended = summary.recommended
        if recommended:
            ends.append(f"recommended: {recommended.num_removed} removed, {percent(recommended.accuracy)}")
        if ends:
            texts.append(f"{summary.name}: {', '.join(ends)}")
    return _sentence("Accuracy against what an answer costs, a point for each number of units removed.", texts)


def reset_words(runs: Sequence[tuple[str, Sequence[Reset]]]) -> str:
    """Describe the figure of the resets."""
    texts = []
    for name, resets in runs:
        if not resets:
            continue
        bumps = [reset.bump for reset in resets if reset.bump is not None]
        back = [reset.steps_to_recover for reset in resets if reset.steps_to_recover is not None]
        parts = [f"{len(resets)} resets"]
        if bumps:
            parts.append(f"the loss changes at once by {min(bumps):+.3g} to {max(bumps):+.3g}")
        if back:
            parts.append(f"it is back after {min(back):,} to {max(back):,} updates")
        parts.append(f"{len(resets) - len(back)} times not before the next reset or the end")
        texts.append(f"{name}: {', '.join(parts)}")
    return _sentence("Loss before and after each optimizer reset, and updates until it is back.", texts)


def speed_words(summaries: Sequence[Summary]) -> str:
    """Describe the figure of speed and memory."""
    texts = []
    for summary in summaries:
        memory = curve(summary.run.train, "memory_mib", 1 / 1024)
        parts = [] if summary.tokens_per_second is None else [f"median {summary.tokens_per_second:,.0f} tokens/s"]
        parts += [] if summary.mfu is None else [f"median MFU {percent(summary.mfu)}"]
        parts += [f"at most {max(size for _, size in memory):.2f} GiB"] if memory else []
        if parts:
            texts.append(f"{summary.name}: {', '.join(parts)}")
    return _sentence("Training speed and memory over optimizer steps.", texts)


def _sentence(title: str, texts: Sequence[str]) -> str:
    return " ".join([title, *(f"{text}." for text in texts)])
