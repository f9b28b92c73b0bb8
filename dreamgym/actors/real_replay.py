"""Dreamed episodes played again for real: whether a won dream is a won game, and if not, who was too kind.

What the policy learned from is measured here, its own actions in its own dreams; offline fidelity does not see what
it exploits. The policy learns nothing from it; the dream may (`training/corrections.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dreamgym.envs.base import Environment
from dreamgym.types import StepResult, Trajectory, Transition

FALSE_WIN = "false_win"
"""In the `info` of a real episode: the dream would have won it."""


@dataclass(frozen=True, slots=True)
class RealReplay:
    """What the actions of a dreamed episode came to in the real environment.

    dreamed  whether the dream was won
    won      whether the real game is
    steps    real transitions that it took
    failed   the environment failed, so that `steps` alone counts
    episode  those real transitions; None where it failed
    parted   the two answered a step with different states
    obeyed   the real environment refused the first such step, which the dream let happen
    """

    dreamed: bool
    won: bool
    steps: int
    parted: bool
    obeyed: bool
    failed: bool = False
    episode: Trajectory | None = field(default=None, compare=False)


async def replay_for_real(t: Trajectory, env: Environment) -> RealReplay:
    """Take the actions of a dreamed episode in the real environment."""
    result = await env.reset(t.task)
    won = parted = obeyed = False
    state, taken = result.observation, list[Transition]()
    for step in t.steps:
        if result.status != "ok" or result.done:
            break
        result = await (env.skip() if step.malformed else env.step(step.action))
        if result.status != "ok":
            break
        taken.append(_taken(step, state, result))
        state = result.observation
        won = won or result.success
        if not (parted or step.malformed) and result.observation != step.next_state:
            parted, obeyed = True, not result.info.get("valid", True)
    failed = result.status != "ok"
    episode = None if failed else _episode(t, taken, won, result.truncated)
    return RealReplay(t.success, won, len(taken), parted, obeyed, failed, episode)


def _taken(step: Transition, state: str, result: StepResult) -> Transition:
    """What the environment made of a dreamed step that was taken in `state`."""
    if step.malformed:
        return replace(step, state=state, done=False)
    return replace(
        step,
        state=state,
        next_state=result.observation,
        reward=result.reward,
        done=result.terminated,
        reasoning="",
        valid=bool(result.info.get("valid", True)),
    )


def _episode(dream: Trajectory, taken: list[Transition], won: bool, truncated: bool) -> Trajectory:
    """The real episode that came of a dreamed one, without tokens, for nobody sampled them there."""
    task = replace(dream.task, first_state=taken[0].state) if taken else dream.task
    return replace(
        dream,
        id=f"{dream.id}+real",
        task=task,
        world="real",
        steps=taken,
        success=won,
        truncated=truncated,
        samples=[],
        info={FALSE_WIN: float(dream.success and not won)},
    )


def real_replay_scores(played: Sequence[RealReplay]) -> dict[str, float]:
    """Of the won dreams: how many, the share won for real, and the share that the dream won by obeying too much."""
    won = [a for a in played if a.dreamed]
    kept = sum(a.won for a in won)
    obeyed = sum(a.obeyed and not a.won for a in won)
    shares = {"kept": kept / len(won), "obeyed": obeyed / len(won)} if won else {}
    return {"wins": float(len(won)), **shares}
