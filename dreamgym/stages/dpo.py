"""The stage `dpo`: a baseline without rollouts; the warm start learns to prefer better episodes of the seed data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.models.chat import load_chat
from dreamgym.runs.stage import stage
from dreamgym.schema import read_parquet
from dreamgym.stages.examples import preference_examples
from dreamgym.stages.sft import show, tuner
from dreamgym.telemetry.console import progress
from dreamgym.types import Trajectory, stable_id


def dpo(config: RunConfig) -> None:
    """`dpo/`: a Hugging Face checkpoint of the policy, tuned by DPO on offline pairs; the warm start is its reference.

    Raises:
        DataError: the warm start is not there, the seed data holds no pair, or a pair exceeds `learner.token_budget`.
    """
    with stage(config, "dpo", ["policy.dpo", "policy.lora"], upstream=["sft-policy"]) as current:
        if current.done:
            return
        start, tuning = current.run_dir / "warm_start", config.policy.dpo
        options = {"reference": start, "lora": config.policy.lora}
        with tuner(config, start, tuning, **options) as learner:
            pairs = preference_pairs(config, read_parquet(current.run_dir / "data" / "annotated.parquet"))
            rows = preference_examples(config, pairs, load_chat(start))
            learner.ready()
            with progress("dpo", tuning.tokens) as bar:
                result = learner.dpo(rows, tuning, config.seed, lambda step: show(bar, step))
            learner.save(current.run_dir / "dpo")
        current.tokens = int(result["tokens"])
        told = ("loss", "accuracy", "margin", "nll", "epochs", "steps", "tokens_per_s")
        current.summary |= {"pairs": len(pairs)} | {key: round(result[key], 4) for key in told if key in result}


def preference_pairs(config: RunConfig, trajectories: Sequence[Trajectory]) -> list[tuple[Trajectory, Trajectory]]:
    """Pairs of a better and a worse trajectory of the same task, at most `policy.dpo.pairs` of them, drawn by the seed.

    One that succeeds is better than one that fails; where both do or neither, the expert's is better than another's.
    Two of the same actions are no pair.

    Raises:
        DataError: there is no pair.
    """
    by_task: dict[str, list[Trajectory]] = defaultdict(list)
    for t in trajectories:
        if t.status == "ok" and t.steps:
            by_task[t.task.id].append(t)
    pairs = [
        (better, worse)
        for played in by_task.values()
        for better, worse in permutations(played, 2)
        if _worth(better) > _worth(worse) and _actions(better) != _actions(worse)
    ]
    if not pairs:
        raise DataError(
            "dpo: the seed data holds no better and worse trajectory of one task; collect noisy or random play as well "
            "(collect.noisy, collect.random)."
        )
    pairs.sort(key=lambda pair: stable_id(config.seed, pair[0].id, pair[1].id))
    return pairs[: config.policy.dpo.pairs]


def _worth(t: Trajectory) -> tuple[bool, bool]:
    return t.success, t.source == "expert"


def _actions(t: Trajectory) -> list[str]:
    return [step.action for step in t.steps]
