"""The same estimate against a cluster that is there: for whoever knows its nodes, such as `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamgym.config import LoRAConfig, RunConfig
from dreamgym.errors import ConfigError
from dreamgym.planning.advice import NONE, nearest, words
from dreamgym.planning.estimate import Models, estimate
from dreamgym.planning.machine import Machine, Node, of_nodes
from dreamgym.planning.shapes import adapter_weights, configuration, shape_of


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a run fits; `said` is what was found, and `remedy` the nearest setting that fits, where there is one."""

    fits: bool
    said: str
    remedy: str = ""


def models_of(config: RunConfig) -> Models:
    """The shapes of a run's models.

    Raises:
        ConfigError: the configuration of a model cannot be had.
    """
    world, policy = config.world.model, config.policy.model

    def adapters_of_rank_1() -> int:
        settings = LoRAConfig(rank=1, alpha=1, targets=config.policy.lora.targets)
        return adapter_weights(configuration(policy, "policy.model", world), settings)

    return Models(shape_of(world, "world.model"), shape_of(policy, "policy.model", world), adapters_of_rank_1)


def check(config: RunConfig, models: Models, machine: Machine) -> Verdict:
    """Whether a run fits a machine, and what would."""
    found = estimate(config, models, machine)
    if not found.misfits:
        return Verdict(True, f"models, caches and optimiser fit {machine.name}")
    change = nearest(config, lambda tried: estimate(tried, models, machine))
    remedy = f"set {words(change)}" if change else NONE
    return Verdict(False, "; ".join(dict.fromkeys(misfit.said for misfit in found.misfits)), remedy)


def check_cluster(config: RunConfig, nodes: Sequence[Node]) -> Verdict:
    """Whether a run fits a live cluster of these nodes; a model whose configuration cannot be had is a misfit too."""
    try:
        return check(config, models_of(config), of_nodes(nodes))
    except ConfigError as error:
        said, _, remedy = str(error).removesuffix(".").rpartition("; ")
        return Verdict(False, said or remedy, remedy if said else "")
