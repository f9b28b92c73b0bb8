"""The stage `eval`: a policy, or a player without a model, in the real environment, with a 95% interval."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

from dreamgym.config import RunConfig
from dreamgym.data.seed_play import play_tasks
from dreamgym.envs.tasks import fold_tasks
from dreamgym.errors import DataError
from dreamgym.runs.folder import write_json
from dreamgym.runs.stage import stage
from dreamgym.telemetry.console import console, waiting
from dreamgym.training.evaluation import Measured, evaluate_policy
from dreamgym.training.services import Services, start_services
from dreamgym.types import Task

Who = Literal["policy", "policy_real", "dpo", "warm_start", "random", "expert"]
MODELS = {"policy": "train", "policy_real": "real", "dpo": "dpo", "warm_start": "sft-policy"}
"""The players that are checkpoints of the run, and the stages that make them."""
MODEL = ["policy.eval_temperature", "policy.malformed", "policy.sampling.max_tokens", "policy.sampling.top_p"]
WITHOUT_MODEL = ["env", "collect"]


def evaluate(config: RunConfig, who: Who = "policy", services: Services | None = None) -> None:
    """Play `eval.games` games of `eval.fold`; the result goes to `eval/<who>-<fold>.json`.

    `services` that still run are used, with the player's weights in their policy engines.

    Raises:
        DataError: the player has no checkpoint yet.
        EnvError: the environment cannot be played, or it has no expert.
    """
    upstream = [MODELS[who]] if who in MODELS else []
    depends = ["eval", *(MODEL if upstream else WITHOUT_MODEL)]
    result = f"eval/{who}-{config.eval.fold}.json"
    with stage(config, f"eval-{who}", depends, upstream, [result]) as current:
        if current.done:
            return
        tasks = fold_tasks(config.env, config.eval.fold, config.eval.games, config.seed)
        began = time.monotonic()
        with waiting(f"{who} plays {len(tasks)} games of the {config.eval.fold} fold"):
            measured = (
                _model(config, who, tasks, services)
                if upstream
                else Measured(play_tasks(config, tasks, who, config.eval.fold))
            )
        record = measured.record(who, config.eval.fold, time.monotonic() - began)
        if record["games"] == 0:
            raise DataError(f"eval: all {len(tasks)} games failed ({measured.trajectories[0].error}).")
        write_json(current.run_dir / result, record)
        console.print(
            f"[bold]{who}[/] wins {record['success']:.1%} of {record['games']} games "
            f"(95% interval {record['low']:.1%} to {record['high']:.1%}; mean reward {record['reward']:.3g})"
        )
        current.tokens = sum(len(s.ids) for t in measured.trajectories for s in t.samples)
        current.summary |= {
            key: record[key] for key in ("success", "low", "high", "reward", "games", "env_failed", "steps")
        }


def _model(config: RunConfig, who: Who, tasks: Sequence[Task], running: Services | None) -> Measured:
    checkpoint = config.run_dir / who
    if running is not None:
        assert running.policy is not None
        running.policy.load(checkpoint)
    with nullcontext(running) if running else start_services(config, checkpoint) as services:
        return evaluate_policy(config, services.fleet, tasks, config.eval.fold, ["real"], -1)[0]
