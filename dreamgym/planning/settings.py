"""Settings that suit a model of a few million weights, left as they were with one a thousand times larger."""

from __future__ import annotations

from dreamgym.config import RunConfig
from dreamgym.planning.estimate import Models

LARGE = 100_000_000
"""Weights of a model that was trained before and is harmed by the rates that suit a small new one."""
HIGHEST = {"sft": 1e-4, "rl": 1e-5}
"""Learning rates above which fine-tuning of all weights, and RL, mostly undo what such a model knows."""
SHORT_ANSWER = 32
"""Tokens: an instructed model says more than a command."""


def unfit(config: RunConfig, models: Models) -> list[str]:
    """A sentence for each setting that does not suit the size of its model."""
    told = []
    for section, shape in (("world", models.world), ("policy", models.policy)):
        tuning = getattr(config, section).sft
        if shape.weights >= LARGE and tuning.tokens and tuning.lr > HIGHEST["sft"]:
            told.append(f"{section}.sft.lr={tuning.lr:g} suits a small new model; take about 1e-5 for this one.")
    if models.policy.weights >= LARGE:
        limit = HIGHEST["rl"] * (10 if config.policy.lora.rank else 1)
        if config.learner.lr > limit:
            told.append(f"learner.lr={config.learner.lr:g} suits a small new model; take about {limit / 10:g}.")
        if config.policy.sampling.max_tokens < SHORT_ANSWER:
            told.append(f"policy.sampling.max_tokens={config.policy.sampling.max_tokens} may cut this model's answers.")
    return told
