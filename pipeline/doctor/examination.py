"""The examination: what can be looked at without PyTorch comes first, since PyTorch itself may be what is broken."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.doctor.finding import Finding, reason_of, run_check
from pipeline.doctor.software import INSTALL, check_compilers, check_packages, check_python


def examine(*recipes: Path) -> list[Finding]:
    """Examine this machine, and a recipe on it.

    Args:
        recipes: The recipe's YAML files, of which a later one wins; without any, nothing that a recipe names is looked
            for.

    Returns:
        A finding for each thing looked at. No check raises: one that breaks is a fault itself.
    """
    with _quiet():
        findings = [
            *run_check("python", INSTALL, check_python),
            *run_check("packages", INSTALL, check_packages),
            *run_check("compilers", "reinstall g++, ninja and nvcc", check_compilers),
        ]
        try:
            from pipeline.doctor.checks import all_checks  # imports PyTorch and Transformers
        except Exception as error:  # a broken installation may raise anything
            return [*findings, Finding("imports", "fault", reason_of(error), INSTALL)]
        for check, remedy, look in all_checks(*recipes):
            findings.extend(run_check(check, remedy, look))
    return findings


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what libraries remark while they are tried: the table says what counts."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
