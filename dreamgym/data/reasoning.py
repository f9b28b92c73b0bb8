"""Reasoning for transitions that have none yet: by the environment's rule, or by a teacher LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dreamgym.config import RunConfig
from dreamgym.data.teacher import Answers, ask, questions
from dreamgym.envs.base import rule_of, told_by
from dreamgym.errors import ConfigError
from dreamgym.types import Trajectory


def explain(config: RunConfig, trajectories: list[Trajectory], kept: Path) -> int:
    """Fill in reasoning, in place, as `annotate.by` says; `kept` keeps a teacher's answers. Returns its tokens.

    Raises:
        ConfigError, EnvError, EngineError: see `by_rule` and `dreamgym.data.teacher.ask`.
    """
    if config.annotate.by == "rule":
        for _ in by_rule(config.env.name, trajectories):
            pass
    asked = list(questions(trajectories)) if config.annotate.by == "teacher" else []
    if not asked:
        return 0
    answers = ask(config.annotate.teacher, asked, kept, lambda _: None)
    fill_in(trajectories, answers)
    return answers.prompt_tokens + answers.completion_tokens


def by_rule(env_name: str, trajectories: list[Trajectory]) -> Iterator[Trajectory]:
    """Fill in reasoning, in place, by the environment's static `reason(task, history, transition)`; each when done.

    Raises:
        ConfigError: the environment has no such rule.
        EnvError: the rule raises or gives no text.
    """
    rule = rule_of(env_name)
    if rule is None:
        raise ConfigError(f"annotate.by: '{env_name}' has no rule reason(); set annotate.by to teacher or none.")
    for trajectory in trajectories:
        _fill(env_name, rule, trajectory)
        yield trajectory


def _fill(env_name: str, rule: Callable[..., object], trajectory: Trajectory) -> None:
    for index, step in enumerate(trajectory.steps):
        if step.reasoning or step.malformed:
            continue
        where = f"env.name: reason() of '{env_name}' at step {index} of trajectory {trajectory.id}"
        reasoning = told_by(where, rule, trajectory.task, trajectory.steps[:index], step)
        trajectory.steps[index] = replace(step, reasoning=" ".join(reasoning.split()))


def fill_in(trajectories: list[Trajectory], answers: Answers) -> None:
    """Put what the teacher told, in place, where it belongs."""
    for trajectory in trajectories:
        for index, step in enumerate(trajectory.steps):
            reasoning = answers.told.get(f"{trajectory.id}/{index}", step.reasoning)
            thought = answers.told.get(f"{trajectory.id}/{index}/thought", step.thought)
            trajectory.steps[index] = replace(step, reasoning=reasoning, thought=thought)
