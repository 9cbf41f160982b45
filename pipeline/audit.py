"""Audits a model without CoT: does it write none, which rows does it fail on, and do baselines explain its answers?"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.answer_spec import load_spec
from pipeline.audit_report import AuditReport, Comparison, Leak, OtherModel
from pipeline.audit_rows import probes_of, training_questions, unseen_rows
from pipeline.comparison import load_contestant
from pipeline.config import DataConfig
from pipeline.difficulty import Group, RowFacts, by_difficulty
from pipeline.errors import UserError
from pipeline.evaluation import Contestant, Evaluation
from pipeline.examples import ExampleSet
from pipeline.scoring import ScoreReport
from pipeline.stage_registry import kept_stages, model_folder, run_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What is asked, and how."""

    data: DataConfig
    """Names the rows as ``validation``, and says how files are read."""
    out_of_distribution: Sequence[str] = ()
    """Files of rows unlike those trained on."""
    num_examples: int | None = None
    """Rows used, from the first that was not trained on; None uses all."""
    batch_size: int = 256
    """Rows decoded together."""
    verify: bool = True
    """Whether decoding tries the reference answers first."""
    trust_remote_code: bool = False
    """Run Python code that comes with the models."""

    def load(self, folder: Path) -> Contestant:
        """Load a model and all of the rows."""
        return load_contestant(folder, self.data, trust_remote_code=self.trust_remote_code)

    def ask(self, contestant: Contestant) -> Evaluation:
        """Return the rows as a model answers them; the log says how many were right."""
        evaluation = contestant.evaluate(self.batch_size, verify=self.verify)
        logger.info("%d of %d rows right", evaluation.score.num_correct, evaluation.score.num_examples)
        return evaluation


def audit(path: Path, settings: AuditSettings, no_cot: Path | None = None, explicit: Path | None = None) -> AuditReport:
    """Ask a model unseen rows, and other models the same rows; one model is in memory at a time.

    Rows whose question the model was trained on are left out.

    Args:
        path: The audited model: a run directory or a model folder.
        settings: What is asked, and how.
        no_cot: Run or model trained without CoT for as many steps; None compares nothing with it.
        explicit: Run or model of explicit CoT; None takes what the audited run has kept with nothing removed.

    Raises:
        UserError: If a model or the data cannot be read, a model is not what it is given as, or no row is left.
    """
    folder = model_folder(path)
    notes: list[str] = []
    others = _find_others(run_of(folder), no_cot, explicit, notes)
    report, rows = _ask_alone(folder, settings, notes)
    comparisons = [found for other in others for found in _compare(*other, settings, rows, report.leak.correct)]
    return replace(report, comparisons=comparisons)


def cut_off(contestant: Contestant) -> Contestant:
    """Return a model that must answer at once: both separators stand in the prompt, so there is no place for a CoT.

    Kept positions are those of rows whose CoT is all removed.
    """
    examples = contestant.examples
    return replace(
        contestant,
        examples=ExampleSet(examples.rows, examples.layout.without_cot()),
        spec=replace(contestant.spec, removes_all=True),
    )


def tokens_beyond(examples: ExampleSet, evaluation: Evaluation) -> list[int]:
    """Return by how many tokens each row's text is longer than what a right answer without CoT takes; at least 0."""
    separator = len(examples.layout.second_separator(has_cot=False))
    needed = separator + examples.lengths("answer_ids") - 1  # the end token is not counted
    written = np.array([sample.num_tokens for sample in evaluation.samples])
    return np.maximum(written - needed, 0).tolist()


def right_with_nothing_beyond(examples: ExampleSet, evaluation: Evaluation) -> list[bool]:
    """Return which rows are right and hold the answer alone: reasoning behind the separator is no answer at once."""
    beyond = tokens_beyond(examples, evaluation)
    return [sample.correct and not more for sample, more in zip(evaluation.samples, beyond, strict=True)]


def _find_others(
    run_dir: Path | None, no_cot: Path | None, explicit: Path | None, notes: list[str]
) -> list[tuple[Path, bool]]:
    """Return the folders of the models to compare with, and whether each was trained without CoT."""
    others = []
    if no_cot is not None:
        others.append((model_folder(no_cot), True))
        if not load_spec(others[-1][0]).removes_all:
            raise UserError(f"--no_cot ({no_cot}): this model writes a CoT; give a run of schedule.kind no_cot.")
    stage = kept_stages(run_dir).get(0) if run_dir else None
    found = stage if explicit is None else model_folder(explicit)
    if found is None:
        notes.append("no explicit CoT to compare with: no stage with 0 removed was kept, and --explicit not given.")
    else:
        others.append((found, False))
        if num_removed := load_spec(found).num_removed:
            raise UserError(f"--explicit ({explicit}): of its CoT {num_removed} units are removed; give one with none.")
    return others


def _ask_alone(folder: Path, settings: AuditSettings, notes: list[str]) -> tuple[AuditReport, np.ndarray]:
    """Return what is found of the audited model by itself, and the numbers of the rows used."""
    contestant = settings.load(folder)
    num_rows, source = len(contestant.examples), settings.data.validation
    trained_on = None
    if (run_dir := run_of(folder)) is None:
        notes.append("the model lies in no run directory: questions that it was trained on could not be left out.")
    else:
        try:
            trained_on = training_questions(run_dir, contestant.tokenizer)
        except UserError as error:
            notes.append(f"questions that the model was trained on could not be left out: {error}")
    unseen = unseen_rows(contestant.examples, trained_on)
    if not len(unseen):
        raise UserError(f"--data ({source}): all its questions are training questions; give other rows.")
    if num_contaminated := num_rows - len(unseen):
        notes.append(f"{num_contaminated:,} rows of {source} left out: their questions are training questions.")
    rows = unseen[: settings.num_examples]
    contestant = replace(contestant, examples=contestant.examples.select(rows))
    probes = probes_of(
        contestant, trained_on, settings.out_of_distribution, settings.data, settings.num_examples, notes
    )
    evaluation, examples = settings.ask(contestant), contestant.examples
    correct = [sample.correct for sample in evaluation.samples]
    cot_tokens = [sample.num_cot_tokens for sample in evaluation.samples]
    report = AuditReport(
        model=str(folder),
        data=source,
        num_removed=contestant.spec.num_removed,
        removes_all=contestant.spec.removes_all,
        score=_score(correct),
        leak=Leak(cot_tokens, tokens_beyond(examples, evaluation), correct),
        difficulty=by_difficulty(_facts(examples), correct),
        out_of_distribution=[Group(name, settings.ask(probe).score) for name, probe in probes],
        comparisons=[],
        num_contaminated=None if trained_on is None else num_contaminated,
        notes=notes,
    )
    return report, rows


def _compare(
    folder: Path, is_no_cot: bool, settings: AuditSettings, rows: np.ndarray, correct: Sequence[bool]
) -> list[Comparison]:
    """Return how another model answers the same rows; one of explicit CoT is asked in two ways."""
    contestant = settings.load(folder)
    contestant = replace(contestant, examples=contestant.examples.select(rows))
    right = [sample.correct for sample in settings.ask(contestant).samples]
    if is_no_cot:
        return [_comparison("no_cot", folder, correct, right)]
    at_once = cut_off(contestant)
    return [
        _comparison(
            "explicit_cut_off", folder, correct, right_with_nothing_beyond(at_once.examples, settings.ask(at_once))
        ),
        _comparison("explicit", folder, correct, right),
    ]


def _comparison(name: OtherModel, folder: Path, correct: Sequence[bool], other: Sequence[bool]) -> Comparison:
    pairs = list(zip(correct, other, strict=True))
    return Comparison(name, str(folder), _score(other), pairs.count((True, False)), pairs.count((False, True)))


def _score(correct: Sequence[bool]) -> ScoreReport:
    return ScoreReport(sum(correct), len(correct))


def _facts(examples: ExampleSet) -> list[RowFacts]:
    rows = range(len(examples))
    steps, tokens = (examples.lengths(column).tolist() for column in ("cot_step_lengths", "cot_ids"))
    texts = examples.texts("question", rows), examples.texts("answer", rows)
    return [RowFacts(*facts) for facts in zip(*texts, steps, tokens, strict=True)]
