"""The words everything else speaks: tasks, steps, transitions, trajectories and token samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Origin = Literal["real", "generated"]
World = Literal["real", "dream"]
Status = Literal["ok", "env_failed"]
Fold = Literal["train", "dev", "test"]
MAX_REWARD = 3.4e38
"""Rewards are recorded as float32."""
MAX_TEXT = 1_000_000
"""Characters of one state, action or other text that comes from outside."""


Edit = tuple[str, str]
"""Words of a task's text (instruction, new line, first state) that stand there once, and what takes their place."""


def stable_id(*parts: object) -> str:
    """A short id that is the same on every machine and in every run: 16 hex digits of SHA-256."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:16]


def is_success(reward: float, ended: bool, above: float = 0.0) -> bool:
    """The one rule of a success, real or dreamed: an end with a reward above the environment's `success_above`."""
    return ended and reward > above


@dataclass(frozen=True, slots=True)
class Task:
    """One goal in one starting situation.

    `payload` is what a real environment needs to start this very task (JSON text, such as fold and
    seed); it is empty for a generated task, which only a dream can play. `first_state` is the
    first abstract state where it is known (recorded offline, or written by the experience model).
    `parent_ids` are those of the tasks that a generated one was made from, then those that these were made from.
    """

    id: str
    env: str
    instruction: str
    payload: str = ""
    first_state: str = ""
    origin: Origin = "real"
    parent_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an environment, real or dreamed, answers to `reset` and `step`.

    `status="env_failed"` says that the answer is no experience at all (a crash, a deadline, a dream
    that cannot be parsed): its reward means nothing and the episode leaves every statistic.
    """

    observation: str
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    status: Status = "ok"
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.terminated or self.truncated

    @property
    def success(self) -> bool:
        """Whether the task is solved: as the environment says, else an end with a reward."""
        return bool(self.info.get("success", is_success(self.reward, self.terminated)))


@dataclass(frozen=True, slots=True)
class Transition:
    """One step: in `state` the agent did `action`, and `next_state`, `reward`, `done` followed.

    `valid` is False where the environment said that the action is not possible there. `thought` is what the agent
    wrote before it acted, and `answer` all that it wrote, where that is more than the action.

    Where an answer was no action, `malformed` says why (a key of `dreamgym.models.answers.MALFORMED`): `action` is
    empty, the world stood still, and `next_state` is the sentence that the agent read then.

    An answer that calls several tools is as many transitions: all but the first have `same_turn`, and the first alone
    has the thought and the answer.
    """

    state: str
    action: str
    next_state: str
    reward: float
    done: bool
    reasoning: str = ""
    expert_action: str = ""
    valid: bool = True
    thought: str = ""
    answer: str = ""
    malformed: str = ""
    same_turn: bool = False

    @property
    def by_expert(self) -> bool:
        """Whether an expert did this, or would have."""
        return self.action == self.expert_action and not self.malformed


def turns_of(steps: Sequence[Transition]) -> list[list[Transition]]:
    """Transitions by turn: those of one answer together."""
    turns: list[list[Transition]] = []
    for step in steps:
        if step.same_turn and turns:
            turns[-1].append(step)
        else:
            turns.append([step])
    return turns


@dataclass(slots=True)
class TokenSample:
    """What the engine really saw and sampled, one growing conversation; lengths are all equal.

    ids       token ids of prompt, observations and sampled actions
    mask      1 where the token was sampled by the policy (carries loss), else 0
    logprobs  nats, of the sampled token under the sampling distribution; 0.0 where mask is 0
    versions  policy version that sampled the token; -1 where mask is 0
    """

    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add_context(self, ids: list[int]) -> None:
        """Append tokens that the policy read (prompt, observation): no loss."""
        self.ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)
        self.versions += [-1] * len(ids)

    def add_sampled(self, ids: list[int], logprobs: list[float], versions: list[int]) -> None:
        """Append tokens that the policy sampled."""
        if not len(ids) == len(logprobs) == len(versions):
            raise ValueError("ids, logprobs and versions of a sampled turn must have equal lengths")
        self.ids += ids
        self.mask += [1] * len(ids)
        self.logprobs += logprobs
        self.versions += versions


@dataclass(slots=True)
class Trajectory:
    """One episode of one task, with its text and, where a policy engine played it, its tokens.

    `source` names who acted: expert, noisy, random, or policy. `world` says where: real or dream.
    `status="env_failed"` keeps an episode out of groups, buffers and statistics; `error` says why it failed.
    """

    id: str
    task: Task
    source: str
    world: World
    steps: list[Transition] = field(default_factory=list)
    fold: Fold = "train"
    status: Status = "ok"
    success: bool = False
    truncated: bool = False
    group: str = ""
    iteration: int = -1
    samples: list[TokenSample] = field(default_factory=list)
    info: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def total_reward(self) -> float:
        """The undiscounted sum of rewards (0 or 1 where the reward is the outcome)."""
        return sum(step.reward for step in self.steps)

    @property
    def lost(self) -> int:
        """Real transitions that were taken for it beside those of `steps`, in attempts that failed."""
        return int(self.info.get("lost", 0))
