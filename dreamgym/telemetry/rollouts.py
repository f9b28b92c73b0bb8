"""Some episodes of an iteration as rows for trackers, under the names that the live page has for its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreamgym.types import Trajectory

ROLLOUTS, LETTERS = 8, 6000
"""Episodes of an iteration that a tracker is told of, and letters of all their turns together, each."""
COLUMNS = ("Episode", "Iteration", "Outcome", "Steps", "World", "Player", "Task", "Reward", "No action", "Turns")
Rollouts = list[dict[str, Any]]
"""Rows with the keys COLUMNS."""


def rollouts(trajectories: Sequence[Trajectory]) -> Rollouts:
    """A row for each of at most ROLLOUTS episodes: as many won as not where there are, each the first of its group."""
    firsts = list({t.group or t.id: t for t in reversed(trajectories)}.values())[::-1]
    others = [t for t in trajectories if t not in firsts]
    ordered = [*firsts, *others]
    won = [t for t in ordered if t.status == "ok" and t.success]
    rest = [t for t in ordered if t not in won]
    half = ROLLOUTS // 2
    number = min(len(won), max(half, ROLLOUTS - len(rest)))
    chosen = [*won[:number], *rest[: ROLLOUTS - number]]
    return [_row(t) for t in trajectories if t in chosen]


def _row(trajectory: Trajectory) -> dict[str, Any]:
    steps = trajectory.steps
    values = (
        trajectory.id,
        trajectory.iteration,
        outcome(trajectory),
        len(steps),
        trajectory.world,
        trajectory.source,
        trajectory.task.instruction or trajectory.task.id,
        float(trajectory.total_reward),
        sum(bool(step.malformed) for step in steps),
        turns(trajectory),
    )
    return dict(zip(COLUMNS, values, strict=True))


def outcome(trajectory: Trajectory) -> str:
    """What became of an episode, in the page's word."""
    if trajectory.status != "ok":
        return "failed"
    return "won" if trajectory.success else "cut" if trajectory.truncated else "lost"


def turns(trajectory: Trajectory) -> str:
    """What was seen, thought and done, a line each; a long episode is cut in its middle."""
    lines = [trajectory.steps[0].state if trajectory.steps else trajectory.error]
    for step in trajectory.steps:
        lines += [f"({step.thought})"] if step.thought else []
        lines += [f"> {step.answer if step.malformed else step.action}", step.next_state]
    text = "\n".join(lines)
    half = LETTERS // 2
    return text if len(text) <= LETTERS else f"{text[:half]}\n[…]\n{text[-half:]}"
