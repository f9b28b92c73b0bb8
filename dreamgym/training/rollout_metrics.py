"""What an iteration's rollouts came to: success, length, age, and what the engines were spared."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dreamgym.errors import DataError
from dreamgym.types import Trajectory


def rollout_metrics(trajectories: Sequence[Trajectory], seconds: float, versions: Sequence[int]) -> dict[str, Any]:
    """The metrics of episodes that were waited for `seconds`; `versions` are those that updates have made, ascending.

    `staleness` is how many updates a sampled token is behind the last one (mean, and the largest). `*_cache_hit` is the
    share of prompt tokens from the prefix cache, `dream_shared` that of the dreamed steps that another episode of
    the group had dreamed, `dream_computed` the tokens that the dream's engine read or wrote. `malformed` is the share
    of steps whose answer was no action, and `malformed_*` how many by kind; `context_full` counts the episodes that a
    full context cut, and `groups_all_won` and `groups_all_lost` the groups whose episodes all ended so.

    Raises:
        DataError: every episode failed.
    """
    ok = [t for t in trajectories if t.status == "ok"]
    if not ok:
        why = trajectories[-1].error if trajectories else "there is none"
        raise DataError(f"rollout: every episode of the iteration failed, the last with: {why}; mend that first.")
    sampled = [
        (logprob, len(versions) - bisect_right(versions, v))
        for t in ok
        for s in t.samples
        for logprob, v, mask in zip(s.logprobs, s.versions, s.mask, strict=True)
        if mask
    ]
    steps = sum(len(t.steps) for t in ok)
    metrics = {
        "dream/success": sum(t.success for t in ok) / len(ok),
        "dream/reward": sum(t.total_reward for t in ok) / len(ok),
        "dream/env_failed": len(trajectories) - len(ok),
        "dream/steps": steps / len(ok),
        "dream/truncated": sum(t.truncated for t in ok) / len(ok),
        "rollout/episodes": len(trajectories),
        "rollout/seconds": seconds,
        "rollout/tokens": sum(len(s.ids) for t in ok for s in t.samples),
        "rollout/staleness": sum(age for _, age in sampled) / max(len(sampled), 1),
        "rollout/staleness_max": max((age for _, age in sampled), default=0),
        "rollout/entropy": -sum(logprob for logprob, _ in sampled) / max(len(sampled), 1),
    }
    metrics["rollout/context_full"] = sum(t.info.get("context_full", 0.0) for t in ok)
    won = [{t.success for t in ok if t.group == group} for group in {t.group for t in ok}]
    metrics["rollout/groups_all_won"], metrics["rollout/groups_all_lost"] = won.count({True}), won.count({False})
    kinds = Counter(step.malformed for t in ok for step in t.steps if step.malformed)
    metrics["rollout/malformed"] = kinds.total() / max(steps, 1)
    metrics |= {f"rollout/malformed_{kind}": count for kind, count in kinds.items()}
    voted = [t.info["dream_overruled"] for t in ok if "dream_overruled" in t.info]
    return metrics | _spared(ok, steps) | ({"dream/overruled": sum(voted)} if voted else {})


def _spared(ok: Sequence[Trajectory], steps: int) -> dict[str, float]:
    told = {name: sum(t.info.get(name, 0.0) for t in ok) for name in {name for t in ok for name in t.info}}
    spared = {
        f"rollout/{who}_cache_hit": told[f"{who}_cached"] / max(told[f"{who}_read"], 1.0)
        for who in ("policy", "dream")
        if f"{who}_read" in told
    }
    if "dream_dreamed" in told:
        spared["rollout/dream_shared"] = 1 - told["dream_dreamed"] / max(steps, 1)
        spared["rollout/dream_computed"] = told["dream_read"] - told["dream_cached"] + told["dream_written"]
    return spared
