"""What the replay buffer stores and gives back: plain records that every other part may import cheaply."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dreamgym.errors import DreamgymError
from dreamgym.types import Status, Task, Trajectory, World

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
    def content(self) -> tuple[str, str, str, str]:
        """What two episodes may both have recorded: task, state, action and next state."""
        return self.task_id, self.state, self.action, self.next_state

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
    """A retrieved transition d_i; `score` is the cosine between its phi(s, a) and the query's.

    `own`: it was looked for among those of the task that asked, and of the tasks that this was made from.
    """

    state: str
    action: str
    next_state: str
    reward: float
    done: bool
    reasoning: str
    score: float
    trajectory_id: str
    world: World
    task_id: str = ""
    own: bool = False

    @classmethod
    def of(cls, item: StoredTransition, score: float, own: bool = False) -> Demo:
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
            task_id=item.task_id,
            own=own,
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


def lineage(task: Task) -> tuple[str, ...]:
    """A task and, where it was invented, those that it was made from, the nearest first."""
    return (task.id, *task.parent_ids)


def seed_transitions(trajectories: Iterable[Trajectory], measured: Collection[str] = ()) -> list[StoredTransition]:
    """What a buffer begins with: the steps of train episodes; what several of them recorded is there once.

    It is then kept as a step of one that is not `measured` (by id), where there is one: an episode that is measured
    without its own steps loses nothing that another one has seen.
    """
    found: dict[tuple[str, str, str, str], StoredTransition] = {}
    for item in (item for t in trajectories if t.fold == "train" for item in from_trajectory(t)):
        if item.content not in found or item.trajectory_id not in measured:
            found[item.content] = item
    return list(found.values())


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
