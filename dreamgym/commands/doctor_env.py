"""Whether the real environment can be played as a run would play it, and whether logs and environment agree."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dreamgym.commands.doctor_cuda import Finding
from dreamgym.config import RunConfig
from dreamgym.data.importing import import_files
from dreamgym.envs.base import TextEnv, act, env_tools, make_env, start, success_above
from dreamgym.errors import DreamgymError
from dreamgym.types import Task, Trajectory

STEPS = 3
LOGS = 3
"""Trajectories of the user's logs that are played again."""


def environment(config: RunConfig) -> Finding:
    """Build it, list a task, reset it and take a few steps, on the node of the driver."""
    doing = "be built"
    try:
        with closing(make_env(config.env)) as env:
            doing = "list tasks of its train fold"
            task = env.tasks("train", 1, config.seed)[0]
            doing = f"reset to task {task.id}"
            start(env, task)
            for step in range(STEPS):
                doing = f"take step {step + 1} of task {task.id}"
                if not (action := _action(env)) or act(env, action).terminated:
                    break
            remark = getattr(env, "remark", "")
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        found = f"{config.env.name} cannot {doing} ({_short(error)})"
        return Finding("environment", False, found, "correct `env`, or the class")
    found = f"{config.env.name} can be played, as in {task.instruction[:60]!r}"
    return Finding("environment", True, f"{found}; {remark}" if remark else found)


def logs(config: RunConfig) -> Finding:
    """Whether the class answers the actions of the user's logs as the logs say."""
    files: Sequence[Path] = config.collect.files
    if not files:
        return Finding("logs", True, "none: seed data is collected by play")
    try:
        train, _ = import_files(
            files,
            config.env.name,
            config.seed,
            config.collect.heldout_tasks,
            config.collect.format,
            success_above(config.env),
            bool(env_tools(config.env.name)),
        )
    except DreamgymError as error:
        return Finding("logs", False, _short(error), "correct that line")
    try:
        with closing(make_env(config.env)) as env:
            differing = [told for t in train[:LOGS] if (told := _differs(env, t))]
    except Exception as error:  # noqa: BLE001 - a user's class may raise anything
        found = f"{config.env.name} cannot play the tasks of the logs ({_short(error)})"
        return Finding("logs", False, found, "let reset() accept a task of the logs: its id, instruction and payload")
    if differing:
        remedy = "write states in logs and class alike, or the dream learns states that the real game never shows"
        return Finding("logs", False, differing[0], remedy)
    return Finding("logs", True, f"{len(train):,} trajectories; the first {min(LOGS, len(train))} play as they say")


def _differs(env: TextEnv, t: Trajectory) -> str:
    """Where the class shows another state than a logged trajectory, in words; empty where it does not."""
    task: Task = t.task
    shown, logged = start(env, task).observation, t.steps[0].state
    for number, step in enumerate(t.steps, 1):
        if shown != logged:
            return f"task {task.id}, before step {number}: the class shows {shown[:60]!r}, the logs {logged[:60]!r}"
        if step.malformed:
            shown = logged = step.next_state
            continue
        answer = act(env, step.action)
        shown, logged = answer.observation, step.next_state
        if answer.terminated or step.done:
            break
    return ""


def _action(env: TextEnv) -> str:
    """Something that can be done now; empty where the class does not tell."""
    expert = getattr(env, "expert_action", None)
    if callable(expert) and (said := expert()):
        return str(said)
    for name in ("valid_actions", "commands"):
        method = getattr(env, name, None)
        if callable(method) and (options := sorted(method())):
            return str(options[0])
    return ""


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
