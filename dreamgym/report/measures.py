"""What is computed of a run for people to see, beside the headline; the pictures and the live page draw it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from dreamgym.report.rundata import RunData

SETS = {
    "heldout": "held-out seed data",
    "train": "seed data of train tasks",
    "policy": "the policy's own actions",
    "invalid": "invalid actions",
}
PARTS_SHOWN = 14
LEARNING: list[tuple[str, str, dict[str, str], bool]] = [
    ("Entropy of the policy", "nats a token", {"rollout/entropy": "engine", "learner/entropy": "learner"}, False),
    ("Engine and learner logprobs", "gap, nats a token",
     {"learner/gap_max": "largest", "learner/gap_p999": "99.9%", "learner/gap_mean": "mean"}, True),
    ("Loss", "policy loss", {"learner/loss": ""}, False),
    ("KL to the warm start", "nats a token", {"learner/kl": ""}, False),
    ("Gradient norm", "before clipping", {"learner/grad_norm": ""}, False),
    ("Clipped tokens", "share of tokens", {"learner/clip_frac": ""}, False),
    ("Tokens of the episodes", "tokens an iteration", {"rollout/tokens": ""}, False),
    ("What the engines were spared", "share",
     {"rollout/dream_cache_hit": "dream's cache", "rollout/policy_cache_hit": "policy's cache",
      "rollout/dream_shared": "shared steps"}, False),
    ("Mean reward", "sum of rewards an episode",
     {"dream/reward": "learning", "dream/dev_reward": "dev fold, dreamed", "real/reward": "dev fold, real"}, False),
    ("Dream episodes left out", "env_failed an iteration", {"dream/env_failed": ""}, False),
]  # fmt: skip


FIDELITY = {
    "state_exact": "Next state, exact",
    "state_f1": "Next state, token F1",
    "outcome_accuracy": "Outcome, right",
    "done_precision": "Done, precision",
    "done_recall": "Done, recall",
    "reward_precision": "Success, precision",
    "reward_recall": "Success, recall",
}


DEMONSTRATIONS = {
    "demo_shown": "Steps that got one",
    "demo_same_task": "Of these, of the same task",
    "demo_right": "Of these, with the right next state",
    "state_exact_told": "Next state, exact, where it was shown",
    "state_exact_untold": "Next state, exact, elsewhere",
    "outcome_accuracy_told": "Outcome, right, where it was shown",
    "outcome_accuracy_untold": "Outcome, right, elsewhere",
}


def fidelity_sets(data: RunData) -> list[str]:
    """The names of the sets of real transitions that the dream was held against."""
    return list(dict.fromkeys(k.split("/")[1] for k in data.keys("fidelity/") if k.count("/") == 2))


def calibration_points(data: RunData) -> list[tuple[int, float, float]]:
    """(iteration, dream success, real success) of each evaluation.

    Dream success is that of the same games dreamed, where it was measured; else the mean of the five
    iterations before. An evaluation none of whose dreams could be read has no point.
    """
    points = []
    steps = dict(zip(*data.series("dream/success"), strict=True))
    for record in data.of("eval"):
        if record.get("dream/dev_games") == 0:
            continue  # none of the dreams could be read
        near = [v for i, v in steps.items() if record["iteration"] - 5 < i <= record["iteration"]]
        dream = record.get("dream/dev_success", fmean(near) if near else None)
        if dream is not None and record.get("real/success") is not None:
            points.append((record["iteration"], dream, record["real/success"]))
    return points


def time_rows(data: RunData) -> list[tuple[str, float]]:
    """(name, seconds) in the order of the run; a stage that tells its parts is shown by them."""
    rows: list[tuple[str, float]] = []
    for stage in data.stages:
        parts = {k: v for k, v in stage["parts"].items() if v > 0}
        rows += [(f"{stage['stage']} · {part}", s) for part, s in parts.items()] or [(stage["stage"], stage["seconds"])]
    if len(rows) > PARTS_SHOWN:
        least = sorted(s for _, s in rows)[-PARTS_SHOWN]
        rest = sum(s for _, s in rows if s < least)
        rows = [(n, s) for n, s in rows if s >= least] + [("all others", rest)]
    return rows


def leaf(key: str) -> str:
    return key.rpartition("/")[2].removeprefix("rejected_").removeprefix("refused_").replace("_", " ")


def smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """The mean of the last `width` values."""
    return [fmean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]
