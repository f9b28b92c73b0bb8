"""What the replay buffer stores and gives back: plain records that every other part may import cheaply."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dreamgym.errors import DreamgymError
from dreamgym.types import Status, Trajectory, World

_NAMESPACE = uuid.UUID("6f0c5a5e-1d5b-5c0e-9a37-6d1f3c6f2b41")


class ReplayError(DreamgymError):
    """The replay buffer or its Qdrant service died or did not answer before its deadline."""


class Outcome(NamedTuple):
    """What a transition earned, and whether the episode ended with it."""

    reward: float
    done: bool


@dataclass(frozen=True, slots=True)
class StoredTransition:
    """One transition with its provenance: which task, episode, step, world and model it came from.

    `model_version` names the experience model that dreamed it ("" where the world is real);
    `iteration` is the one it was made in, -1 for data collected before the training loop.
    """

    task_id: str
    trajectory_id: str
    step: int
    state: str
    action: str
    next_state: str
    reward: float
    done: bool
    reasoning: str
    world: World
    model_version: str
    iteration: int

    @property
    def id(self) -> str:
        """UUID5 of trajectory and step: the same transition always has the same id."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.trajectory_id}\x1f{self.step}"))

    @property
    def outcome(self) -> Outcome:
        """Reward (to 4 places, so that float32 from a file equals float64) and done."""
        return Outcome(round(self.reward, 4), self.done)

    def missing_provenance(self) -> str:
        """The first field without which it cannot be told what this is and where it came from; "" if complete.

        A real environment may have an empty state or action; a dream of one is nothing to learn from.
        """
        texts = ("state", "action", "next_state") if self.world == "dream" else ()
        for name in ("task_id", "trajectory_id", *texts):
            if not getattr(self, name).strip():
                return name
        if self.world not in ("real", "dream"):
            return "world"
        if self.step < 0:
            return "step"
        if self.world == "dream" and not self.model_version:
            return "model_version"
        if self.world == "dream" and self.iteration < 0:
            return "iteration"
        return ""


@dataclass(frozen=True, slots=True)
class Demo:
    """A retrieved transition d_i; `score` is the cosine between its phi(s, a) and the query's."""

    state: str
    action: str
    next_state: str
    reward: float
    done: bool
    reasoning: str
    score: float
    trajectory_id: str
    world: World

    @classmethod
    def of(cls, item: StoredTransition, score: float) -> Demo:
        return cls(
            state=item.state,
            action=item.action,
            next_state=item.next_state,
            reward=item.reward,
            done=item.done,
            reasoning=item.reasoning,
            score=score,
            trajectory_id=item.trajectory_id,
            world=item.world,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transition offered to the buffer.

    `status` is that of the episode it came from; `again` is what the dream answered when it was asked
    the same with other demonstrations (None where it was not asked, or gave no readable answer).
    """

    item: StoredTransition
    status: Status = "ok"
    again: Outcome | None = None


def from_trajectory(trajectory: Trajectory, model_version: str = "") -> list[StoredTransition]:
    """Every step of an episode in which something was done, as a record.

    `model_version` is the experience model's, for a dream.
    """
    return [
        StoredTransition(
            task_id=trajectory.task.id,
            trajectory_id=trajectory.id,
            step=index,
            state=step.state,
            action=step.action,
            next_state=step.next_state,
            reward=step.reward,
            done=step.done,
            reasoning=step.reasoning,
            world=trajectory.world,
            model_version=model_version,
            iteration=trajectory.iteration,
        )
        for index, step in enumerate(trajectory.steps)
        if not step.malformed
    ]


def seed_items(trajectories: Iterable[Trajectory]) -> list[StoredTransition]:
    """What a buffer begins with: the different transitions of seed data, each once."""
    different = {
        (item.task_id, item.state, item.action, item.next_state): item
        for t in trajectories
        for item in from_trajectory(t)
    }
    return list(different.values())
