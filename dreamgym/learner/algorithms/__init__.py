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
    """`learner.algorithm` with the parts that the configuration replaces.

    Flat groups are kept where whitening, the KL, the entropy or the world's answers give them a gradient.
    """
    named = {name: getattr(config, name) for name in ALGORITHM_PARTS}
    given = {name: value for name, value in named.items() if value is not None}
    if config.advantage is not None:
        given |= {name: getattr(find(config.advantage), name) for name in ("advantage", "whiten")}
    chosen = replace(find(config.algorithm), **given)
    taught_otherwise = chosen.whiten or config.kl_coef > 0 or config.entropy_coef > 0 or config.echo > 0
    return replace(chosen, drop_flat=chosen.drop_flat and not taught_otherwise)
