"""From nothing to a player, stage by stage; each is imported as it begins, since torch and ray take seconds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from dreamgym.commands.annotate import annotate
from dreamgym.commands.collect import collect
from dreamgym.commands.paper_tables import STAGES, Player
from dreamgym.config import RunConfig
from dreamgym.envs.checker import checker_of

if TYPE_CHECKING:
    from dreamgym.training.services import Services


def make(config: RunConfig, who: Player, alive: ExitStack) -> Services | None:
    """Run what is not done yet of all that a player needs.

    Args:
        alive: keeps what was started running until it is closed.

    Returns:
        The services that `alive` keeps, to measure the player with; None where nothing was started.

    Raises:
        DreamgymError: whatever stage failed says so in its own sentence; finished ones are kept.
    """
    checker_of(config)  # one that is not there is told here, and not after the tuning
    collect(config)
    annotate(config)
    from dreamgym.commands.sft import sft

    sft(config)
    if who == "dpo":
        from dreamgym.commands.dpo import dpo

        dpo(config)
    if "train" not in STAGES[who]:
        return None
    from dreamgym.commands.train import train

    services = train(config, alive)
    if who != "policy_real":
        return services
    from dreamgym.commands.real import real

    return real(config, services, alive)
