"""The stage `dpo`: a baseline without rollouts; the warm start learns to prefer better episodes of the seed data."""

from __future__ import annotations

from dreamgym.commands.sft import show
from dreamgym.config import RunConfig
from dreamgym.data.examples import preference_examples
from dreamgym.data.preferences import preference_pairs
from dreamgym.envs.base import env_tools
from dreamgym.models.chat import load_chat
from dreamgym.runs.stage import stage
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import progress
from dreamgym.training.tuning import tuner


def dpo(config: RunConfig) -> None:
    """`dpo/`: a Hugging Face checkpoint of the policy, tuned by DPO on offline pairs; the warm start is its reference.

    Raises:
        DataError: the warm start is not there, the seed data holds no pair, or a pair exceeds `learner.token_budget`.
    """
    with stage(config, "dpo", ["policy.dpo", "policy.lora"], ["sft-policy"], ["dpo"]) as current:
        if current.done:
            return
        start, tuning = current.run_dir / "warm_start", config.policy.dpo
        options = {"reference": start, "lora": config.policy.lora}
        with tuner(config, start, tuning, **options) as learner:
            pairs = preference_pairs(config, read_parquet(current.run_dir / "data" / "annotated.parquet"))
            rows = preference_examples(config, pairs, load_chat(start, forks=True, tools=env_tools(config.env.name)))
            learner.ready()
            with progress("dpo", tuning.tokens) as bar:
                result = learner.dpo(rows, tuning, config.seed, lambda step: show(bar, step))
            learner.save(current.run_dir / "dpo")
        current.tokens = int(result["tokens"])
        told = ("loss", "accuracy", "margin", "nll", "epochs", "steps", "tokens_per_s")
        current.summary |= {"pairs": len(pairs)} | {key: round(result[key], 4) for key in told if key in result}
