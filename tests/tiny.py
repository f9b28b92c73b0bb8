"""The settings of runs that are tiny and whole, for the tests and benchmarks that start `dreamgym` as a user does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dreamgym.config import RunConfig

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
REAL = [
    "collect.tasks=12",
    "collect.heldout_tasks=2",
    "world.model.scratch.drill_tokens=0",
    "world.sft.tokens=4000",
    "policy.sft.tokens=8000",
    "policy.demonstrations=8",
    "train.world=real",
]
"""Learns in the game itself, so that models need not be good: made in half a minute."""
DREAM = [
    "collect.tasks=60",
    "collect.heldout_tasks=4",
    "world.model.scratch.drill_tokens=100000",
    "world.sft.tokens=160000",
    "policy.sft.tokens=60000",
    "policy.demonstrations=40",
]
"""Learns in a dream that mostly holds together: made in some minutes."""
PATIENT = [
    "env.timeout_s=1200",
    "policy.engine.timeout_s=1200",
    "world.engine.timeout_s=1200",
    "replay.timeout_s=1200",
    "learner.timeout_s=3600",
    "train.episode_timeout_s=1200",
]
"""Nothing is given up because a machine is slow or busy."""


def operational(name: str) -> bool:
    """Whether the field of this dotted name says where it is defined that it changes nothing that is made."""
    section: Any = RunConfig
    *sections, field = name.split(".")
    for part in sections:
        section = section.model_fields[part].annotation
    return bool(section.is_operational(field))
