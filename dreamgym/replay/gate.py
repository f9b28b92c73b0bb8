"""The write gate: what a dreamed transition must show before the buffer, and so later dreams, believe it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dreamgym.config import ReplayConfig
from dreamgym.replay.records import Candidate, Outcome, StoredTransition
from dreamgym.types import stable_id

Contradiction = Literal["", "contradicts_reward", "contradicts_end", "contradicts_state"]
"""What a dreamed transition says otherwise than a real one that is as good as the same; empty where nothing."""
Reason = Literal[
    "admitted",
    "env_failed",
    "incomplete",
    "contradicts_reward",
    "contradicts_end",
    "contradicts_state",
    "duplicate",
    "inconsistent",
    "unchecked",
]
"""Why: the episode failed; provenance is missing; reality said otherwise of the same task, state and action; nothing
new; a second dream disagreed, or gave no answer."""
_ROUNDING = 1e-6


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

    def screen(self, candidate: Candidate, similarity: float, against: Contradiction = "") -> Verdict:
        """What can be said before the dream is asked again.

        Args:
            similarity: largest cosine to a stored transition with the same reward and done; below 0
                where there is none.
            against: how a near real transition contradicts it.
        """
        return self._count(self._screen(candidate, similarity, against))

    def decide(self, candidate: Candidate, similarity: float, against: Contradiction = "") -> Verdict:
        """Provenance, truth, novelty and consistency; a real transition passes when its provenance is complete."""
        verdict = self._screen(candidate, similarity, against)
        if verdict.admitted and candidate.item.world == "dream" and self._config.consistency:
            verdict = _consistency(candidate.item.outcome, candidate.again)
        return self._count(verdict)

    def _screen(self, candidate: Candidate, similarity: float, against: Contradiction) -> Verdict:
        item = candidate.item
        if candidate.status == "env_failed":
            return Verdict(False, "env_failed", "the episode failed: its transitions are no experience")
        missing = item.missing_provenance()
        if missing or not math.isfinite(item.reward):
            return Verdict(False, "incomplete", missing or "reward")
        if item.world == "dream" and against:
            return Verdict(False, against, "a near real transition of the same task and action says otherwise")
        if item.world == "dream" and similarity >= self._config.novelty:
            return Verdict(False, "duplicate", f"cosine {similarity:.4f} to a stored one with the same outcome")
        return Verdict(True, "admitted")

    def _count(self, verdict: Verdict) -> Verdict:
        if not verdict.admitted:
            self.refused[verdict.reason] += 1
        return verdict


def contradiction(item: StoredTransition, real: Sequence[tuple[StoredTransition, float]]) -> Contradiction:
    """What the nearest real transitions with the same action say otherwise, where none of them says the same.

    A next state is compared only where the state is the same: after one that is merely near, it may well differ.

    Args:
        real: near real transitions of the same task, each with its cosine to the item.
    """
    same = [(other, score) for other, score in real if other.action == item.action]
    best = max((score for _, score in same), default=0.0)
    nearest = [other for other, score in same if score >= best - _ROUNDING]
    kinds = [_differs(item, other) for other in nearest]
    return "" if "" in kinds or not kinds else kinds[0]


def _differs(item: StoredTransition, real: StoredTransition) -> Contradiction:
    if item.outcome.reward != real.outcome.reward:
        return "contradicts_reward"
    if item.done != real.done:
        return "contradicts_end"
    return "contradicts_state" if item.state == real.state and item.next_state != real.next_state else ""


def _consistency(first: Outcome, again: Outcome | None) -> Verdict:
    if again is None:
        return Verdict(False, "unchecked", "no readable second answer")
    if first.done != again.done or not np.isclose(first.reward, again.reward):
        return Verdict(False, "inconsistent", f"{tuple(first)} and then {tuple(again)}")
    return Verdict(True, "admitted")
