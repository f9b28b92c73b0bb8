"""Dreamed episodes played again for real: whether a won dream is a won game, and if not, who was too kind.

What the policy learned from is measured here, its own actions in its own dreams; offline fidelity does not see what
it exploits. Nothing here is learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamgym.envs.base import Environment
from dreamgym.types import Trajectory


@dataclass(frozen=True, slots=True)
class RealReplay:
    """What the actions of a dreamed episode came to in the real environment.

    dreamed  whether the dream was won
    won      whether the real game is
    steps    real transitions that it took
    failed   the environment failed, so that `steps` alone counts
    parted   the two answered a step with different states
    obeyed   the real environment refused the first such step, which the dream let happen
    """

    dreamed: bool
    won: bool
    steps: int
    parted: bool
    obeyed: bool
    failed: bool = False


async def replay_for_real(t: Trajectory, env: Environment) -> RealReplay:
    """Take the actions of a dreamed episode in the real environment."""
    result = await env.reset(t.task)
    won = parted = obeyed = False
    steps = 0
    for step in t.steps:
        if result.status != "ok" or result.done:
            break
        result = await (env.skip() if step.malformed else env.step(step.action))
        if result.status != "ok":
            break
        steps += 1
        won = won or result.success
        if not (parted or step.malformed) and result.observation != step.next_state:
            parted, obeyed = True, not result.info.get("valid", True)
    return RealReplay(t.success, won, steps, parted, obeyed, failed=result.status != "ok")


def real_replay_scores(played: Sequence[RealReplay]) -> dict[str, float]:
    """Of the won dreams: how many, the share won for real, and the share that the dream won by obeying too much."""
    won = [a for a in played if a.dreamed]
    kept = sum(a.won for a in won)
    obeyed = sum(a.obeyed and not a.won for a in won)
    shares = {"kept": kept / len(won), "obeyed": obeyed / len(won)} if won else {}
    return {"wins": float(len(won)), **shares}
