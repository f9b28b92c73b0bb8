"""From nothing to a player, stage by stage."""

from __future__ import annotations

from contextlib import ExitStack

from dreamgym.config import RunConfig
from dreamgym.services import Services
from dreamgym.stages.annotate import annotate
from dreamgym.stages.collect import collect
from dreamgym.stages.dpo import dpo
from dreamgym.stages.real import real
from dreamgym.stages.rows import STAGES, Player
from dreamgym.stages.sft import sft
from dreamgym.stages.train import train


def make(config: RunConfig, who: Player, alive: ExitStack) -> Services | None:
    """Run what is not done yet of all that a player needs.

    Args:
        alive: keeps what was started running until it is closed.

    Returns:
        The services that `alive` keeps, to measure the player with; None where nothing was started.

    Raises:
        DreamgymError: whatever stage failed says so in its own sentence; finished ones are kept.
    """
    collect(config)
    annotate(config)
    sft(config)
    if who == "dpo":
        dpo(config)
    services = train(config, alive) if "train" in STAGES[who] else None
    if who == "policy_real":
        services = real(config, services, alive)
    return services
