"""One episode of seed data: an expert, a noisy or a random player acts in a real environment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dreamgym.config import CollectConfig, RunConfig
from dreamgym.envs.base import TextEnv, act, pick, start
from dreamgym.models.answers.calls import read_call
from dreamgym.types import Fold, Task, Trajectory, Transition, stable_id


class SeedEpisode:
    """One episode as it is played: who acts (`source`), with a generator of its own.

    `shown` are the actions of the expert in an episode of the same task.
    """

    def __init__(
        self, task: Task, source: str, number: int, fold: Fold, config: RunConfig, shown: Sequence[str] = ()
    ) -> None:
        self._collect: CollectConfig = config.collect
        self._shown = shown
        self._max_steps = config.env.max_steps
        self._success_above = config.env.success_above
        self._rng = random.Random(stable_id(config.seed, task.id, source, number))
        self.trajectory = Trajectory(
            stable_id(config.seed, config.env.name, task.id, source, number), task, source, "real", fold=fold
        )
        self.over = False
        self._state = ""

    def begin(self, env: TextEnv) -> None:
        """Reset; the first observation becomes the task's first state."""
        self._state = start(env, self.trajectory.task).observation
        self.trajectory.task = replace(self.trajectory.task, first_state=self._state)

    def advance(self, env: TextEnv) -> None:
        """One step: ask the expert, choose, act, record. `done` of the record is the environment's own end."""
        expert = _ask(env, "expert_action") or ""
        action = self._choose(env, expert)
        if getattr(type(env), "tools", ()):
            expert, action = read_call(expert).text if expert else "", read_call(action).text
        result = act(env, action, self._success_above)
        done = result.terminated
        t = self.trajectory
        valid = bool(result.info.get("valid", True))
        t.steps.append(
            Transition(self._state, action, result.observation, result.reward, done, expert_action=expert, valid=valid)
        )
        if "valid" in result.info:
            t.info["invalid"] = t.info.get("invalid", 0.0) + float(not result.info["valid"])
        t.success = result.success
        t.truncated = not done and (result.truncated or len(t.steps) >= self._max_steps)
        self.over = done or t.truncated
        self._state = result.observation

    def _choose(self, env: TextEnv, expert: str) -> str:
        stray = {"expert": 0.0, "noisy": self._collect.noise, "random": 1.0}[self.trajectory.source]
        if expert and self._rng.random() >= stray:
            return expert
        words = not getattr(type(env), "tools", ())  # a slip of a word makes no other call, but text that is none
        if expert and words and self._rng.random() < self._collect.slips:
            return slip(self._rng, expert, _ask(env, "commands") or [expert])
        avoid = expert if self.trajectory.source == "noisy" else ""
        invalid = self._rng.random() < self._collect.invalid
        untimely = [a for a in self._shown if a != avoid]
        if invalid and untimely and self._rng.random() < self._collect.untimely:
            return pick(self._rng, untimely)
        for pool in ("commands", "valid_actions") if invalid else ("valid_actions", "commands"):
            options = sorted(a for a in _ask(env, pool) or () if a != avoid)
            if options:
                garbled = words and invalid and pool == "commands" and self._rng.random() < self._collect.garbled
                return garble(self._rng, options) if garbled else pick(self._rng, options)
        if expert:
            return expert
        raise LookupError(f"no action to take in state '{self._state}'")


def garble(rng: random.Random, commands: Sequence[str]) -> str:
    """A command gone wrong, as a policy that explores writes them: a slip (`move coin in box`), or the start of one
    command's first word and the end of another command (`te coin`).
    """
    head, tail = pick(rng, commands), pick(rng, commands)
    if rng.random() < 0.5:
        return slip(rng, head, commands)
    cut = rng.randint(1, max(1, len(head.partition(" ")[0])))
    return (head[:cut] + tail[rng.randrange(1, max(2, len(tail))) :]).strip()


def slip(rng: random.Random, command: str, commands: Sequence[str]) -> str:
    """A command with another of all commands' words in one place; said twice where there is no other word."""
    words = command.split()
    place = rng.randrange(len(words))
    others = sorted({word for known in commands for word in known.split()} - {words[place]})
    return " ".join([*words[:place], pick(rng, others), *words[place + 1 :]] if others else [*words, *words])


def _ask(env: TextEnv, question: str) -> Any:
    """The answer of an optional method; None where the environment has none."""
    method = getattr(env, question, None)
    return method() if callable(method) else None
