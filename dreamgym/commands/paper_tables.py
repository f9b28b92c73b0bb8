"""The rows of the paper's tables: which settings each lays over a recipe, which player is measured, how it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Player = Literal["warm_start", "dpo", "policy", "policy_real"]
_START = ("collect", "annotate", "sft-world", "sft-policy")
STAGES: dict[Player, tuple[str, ...]] = {
    "warm_start": _START,
    "dpo": (*_START, "dpo"),
    "policy": (*_START, "train"),
    "policy_real": (*_START, "train", "real"),
}
"""The stages that make each player, in their order, by the names of their records."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    label         what it is, for people
    player        whose games count
    settings      `field=value`, over the recipe and over what the command line sets for all rows
    common_start  its experience model is another, yet its policy begins with the warm start of the other rows
    """

    label: str
    player: Player
    settings: tuple[str, ...] = ()
    common_start: bool = False


GRPO, PPO = "learner.algorithm=grpo", "learner.algorithm=ppo"
ON_REAL = ("train.world=real", "real.transitions=12000", "train.minutes=0", "train.iterations=1000000")
"""The budget of real transitions alone ends it."""
THEN_REAL = ("real.transitions=1000",)

ROWS = {
    "warm_start": Row("SFT on few demonstrations, the warm start of all others", "warm_start"),
    "sft": Row(
        "SFT on all demonstrations, one pass",
        "warm_start",
        (
            "policy.demonstrations=1000000",
            "policy.sft.epochs=1",
            "policy.sft.tokens=1000000000",
            "policy.sft.stop_loss=0",
        ),
    ),
    "dpo": Row("DPO on recorded trajectories", "dpo"),
    "real_grpo": Row("GRPO on real rollouts", "policy", (*ON_REAL, GRPO)),
    "real_ppo": Row("PPO on real rollouts", "policy", (*ON_REAL, PPO)),
    "dream_grpo": Row("DreamGym with GRPO", "policy", (GRPO,)),
    "dream_ppo": Row("DreamGym with PPO", "policy", (PPO,)),
    "sim_to_real_grpo": Row("DreamGym, then real, with GRPO", "policy_real", (GRPO, *THEN_REAL)),
    "sim_to_real_ppo": Row("DreamGym, then real, with PPO", "policy_real", (PPO, *THEN_REAL)),
    "no_reasoning": Row("without reasoning", "policy", (GRPO, "annotate.by=none"), common_start=True),
    "no_replay": Row("without replay", "policy", (GRPO, "replay.top_k=0"), common_start=True),
    "no_history": Row("without history", "policy", (GRPO, "world.history=false"), common_start=True),
    "no_generated_tasks": Row("without generated tasks", "policy", (GRPO, "curriculum.generated_share=0")),
    "no_memo": Row("every episode dreamed on its own", "policy", (GRPO, "world.memo=false")),
}
COMMON_START: Player = "warm_start"
"""The row, and its player, with which those of a `common_start` begin."""

TABLES = {
    "table1": (
        "warm_start", "sft", "dpo", "real_grpo", "real_ppo",
        "dream_grpo", "dream_ppo", "sim_to_real_grpo", "sim_to_real_ppo",
    ),
    "ablation": ("dream_grpo", "no_reasoning", "no_replay", "no_history", "no_generated_tasks"),
    "memo": ("dream_grpo", "no_memo"),
}  # fmt: skip
"""Rows of each table (paper, tables 1 and 2; and what a group's shared dreams do to learning).

The others are held against the first, seed by seed."""
