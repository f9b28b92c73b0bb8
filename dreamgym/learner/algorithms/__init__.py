"""The algorithms: one file each, found by its name.

A new one is a file `NAME.py` here that defines `ALGORITHM`, and its name in `config.AlgorithmName`. It says how
advantages are made (numpy, before the learner, or by a critic in it), what a token's objective is (torch, in the
learner) and what the objective is averaged over; a part that another algorithm has already is imported from its file.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from dreamgym.config import ALGORITHM_PARTS, AlgorithmName, LearnerConfig
from dreamgym.learner.algorithms.base import Algorithm


def find(name: AlgorithmName) -> Algorithm:
    """The algorithm of a registered name, in its paper's form."""
    algorithm: Algorithm = import_module(f"{__name__}.{name}").ALGORITHM
    return algorithm


def resolve(config: LearnerConfig) -> Algorithm:
    """`learner.algorithm` with the parts that the configuration replaces."""
    given = {name: getattr(config, name) for name in ALGORITHM_PARTS}
    if config.advantage is not None:
        given["advantage"] = find(config.advantage).advantage
    return replace(find(config.algorithm), **{name: value for name, value in given.items() if value is not None})
