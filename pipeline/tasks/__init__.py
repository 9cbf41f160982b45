"""Generators of exact synthetic data, one file a task, and the splits drawn from them."""

from pipeline.tasks.addition import Addition
from pipeline.tasks.automaton import Automaton, modular_sum, parity, symmetric_group_3
from pipeline.tasks.multiplication import Multiplication
from pipeline.tasks.sparse_multiplication import SparseMultiplication
from pipeline.tasks.splits import generate_splits, sample_places
from pipeline.tasks.task import Task

__all__ = [
    "Addition",
    "Automaton",
    "Multiplication",
    "SparseMultiplication",
    "Task",
    "generate_splits",
    "modular_sum",
    "parity",
    "sample_places",
    "symmetric_group_3",
]
