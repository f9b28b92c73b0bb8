"""The write gate: what a dreamed transition must show before the buffer, and so later dreams, believe it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dreamgym.config import ReplayConfig
from dreamgym.replay.records import Candidate, Outcome
from dreamgym.types import stable_id

Reason = Literal["admitted", "env_failed", "incomplete", "duplicate", "inconsistent", "unchecked"]
"""Why: the episode failed; provenance is missing; nothing new; a second dream disagreed, or gave no answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision; `detail` says what it rests on."""

    admitted: bool
    reason: Reason
    detail: str = ""


class WriteGate:
    """Decides on candidates, one at a time; it knows no index and no model, only what it is told."""

    def __init__(self, config: ReplayConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self.refused: Counter[str] = Counter()
        """How many were refused, by reason."""

    def is_offered(self, trajectory_id: str) -> bool:
        """Whether this trajectory is in the share `consistency_share` that is offered at all: the same in every run."""
        draw = int(stable_id(self._seed, trajectory_id), 16) / 16**16
        return draw < self._config.consistency_share

    def screen(self, candidate: Candidate, similarity: float) -> Verdict:
        """What can be said before the dream is asked again.

        Args:
            similarity: largest cosine to a stored transition with the same reward and done; below 0
                where there is none.
        """
        return self._count(self._screen(candidate, similarity))

    def decide(self, candidate: Candidate, similarity: float) -> Verdict:
        """Provenance, novelty and consistency; a real transition passes when its provenance is complete."""
        verdict = self._screen(candidate, similarity)
        if verdict.admitted and candidate.item.world == "dream" and self._config.consistency:
            verdict = _consistency(candidate.item.outcome, candidate.again)
        return self._count(verdict)

    def _screen(self, candidate: Candidate, similarity: float) -> Verdict:
        item = candidate.item
        if candidate.status == "env_failed":
            return Verdict(False, "env_failed", "the episode failed: its transitions are no experience")
        missing = item.missing_provenance()
        if missing or not math.isfinite(item.reward):
            return Verdict(False, "incomplete", missing or "reward")
        if item.world == "dream" and similarity >= self._config.novelty:
            return Verdict(False, "duplicate", f"cosine {similarity:.4f} to a stored one with the same outcome")
        return Verdict(True, "admitted")

    def _count(self, verdict: Verdict) -> Verdict:
        if not verdict.admitted:
            self.refused[verdict.reason] += 1
        return verdict


def _consistency(first: Outcome, again: Outcome | None) -> Verdict:
    if again is None:
        return Verdict(False, "unchecked", "no readable second answer")
    if first.done != again.done or not np.isclose(first.reward, again.reward):
        return Verdict(False, "inconsistent", f"{tuple(first)} and then {tuple(again)}")
    return Verdict(True, "admitted")
