"""The guard against a dream that is exploited: how many of its won episodes are won when they are played for real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dreamgym.config import TrainConfig
from dreamgym.telemetry.stats import wilson


def stop_reason(records: Sequence[Mapping[str, Any]], config: TrainConfig) -> str:
    """Why training should end, in one sentence; "" where it may go on.

    It should where the upper end of the 95% interval (Wilson) of the share of won dreams that are won for real, over
    the last `train.kept_window` evaluations together, is below `train.min_kept`: a few wins are not held against it.

    Args:
        records: of the run's log; an evaluation says `again/wins`, and `again/kept` where there are wins.
    """
    if not config.min_kept:
        return ""
    evaluations = [r for r in records if r["kind"] == "eval" and "again/wins" in r][-config.kept_window :]
    wins = round(sum(r["again/wins"] for r in evaluations))
    kept = round(sum(r["again/wins"] * r.get("again/kept", 0.0) for r in evaluations))
    if len(evaluations) < config.kept_window or wilson(kept, wins)[1] >= config.min_kept:
        return ""
    return (
        f"{kept} of {wins} won dreams were won for real in the last {config.kept_window} evaluations, which is below "
        f"train.min_kept={config.min_kept:g}: the policy learns what only the dream rewards."
    )
