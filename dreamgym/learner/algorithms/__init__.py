"""The algorithms: one file each, found by its name.

A new one is a file `NAME.py` here that defines `ALGORITHM`, and its name in `config.AlgorithmName`. It says how
advantages are made (numpy, before the learner, or by a critic in it), what a token's objective is (torch, in the
learner) and what the objective is averaged over; a part that another algorithm has already is imported from its file.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from dreamgym.config import AlgorithmName, LearnerConfig
from dreamgym.learner.algorithms.base import Algorithm

OVERRIDES = ("aggregation", "clip_low", "clip_high", "kl_estimator", "kl_in_reward")


def find(name: AlgorithmName) -> Algorithm:
    """The algorithm of a registered name, in its paper's form."""
    algorithm: Algorithm = import_module(f"{__name__}.{name}").ALGORITHM
    return algorithm


def resolve(config: LearnerConfig) -> Algorithm:
    """`learner.algorithm` with the parts that the configuration replaces."""
    chosen = find(config.algorithm)
    if config.advantage is not None:
        chosen = replace(chosen, advantage=find(config.advantage).advantage)
    given = {name: getattr(config, name) for name in OVERRIDES}
    return replace(chosen, **{name: value for name, value in given.items() if value is not None})
