"""Starts the dream: one Ray Serve application with the experience model's replicas and the task generator."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from dreamgym.config import RunConfig
from dreamgym.errors import DreamgymError, EngineError
from dreamgym.replay.actor import ReplayClient
from dreamgym.serve.dream import WorldClient
from dreamgym.serve.experience import ExperienceModel
from dreamgym.serve.scaling import replicas_for_load
from dreamgym.serve.tasks import TaskGenerator

WORLD, TASKS = "ExperienceModel", "TaskGenerator"


@dataclass(frozen=True, slots=True)
class DreamApp:
    """A running dream: its Serve application, and clients for the driver."""

    name: str
    world: WorldClient
    tasks: Any

    def close(self) -> None:
        """Stop the replicas."""
        serve.delete(self.name)


def start_dream(
    config: RunConfig, model: Path, replay: ReplayClient | None, *, threads: int | None, gpus: float = 0.0
) -> DreamApp:
    """Deploy and wait until a replica is ready. No port is opened: calls go through Ray.

    Raises:
        EngineError: no replica became ready; the sentence is the replica's own where it has one.
    """
    name = f"dream-{config.name}-seed{config.seed}"
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    world = serve.deployment(
        ExperienceModel,
        name=WORLD,
        max_ongoing_requests=4 * config.world.engine.max_num_seqs,
        autoscaling_config={
            "min_replicas": config.world.replicas,
            "max_replicas": max(config.world.replicas, config.world.max_replicas),
            "policy": {"policy_function": replicas_for_load},
            "look_back_period_s": config.world.upscale_delay_s,
            "upscale_delay_s": config.world.upscale_delay_s,
            "downscale_delay_s": config.world.downscale_delay_s,
        },
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus},
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=5,
    ).bind(str(model), config, replay, threads)
    tasks = serve.deployment(
        TaskGenerator, name=TASKS, ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=5
    ).bind(world, config, replay)
    try:
        handle = serve.run(tasks, name=name, route_prefix=None)
    except RuntimeError as error:
        raise EngineError(f"the experience model at {model} did not start: {_cause(error)}") from error
    return DreamApp(
        name, WorldClient(serve.get_deployment_handle(WORLD, app_name=name), config.world.engine.timeout_s), handle
    )


def _cause(error: Exception) -> str:
    """The replica's own sentence where Serve's message holds one, else the message's last line."""
    if isinstance(error.__cause__, DreamgymError):
        return str(error.__cause__)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if "dreamgym.errors." in line]
    return (own or lines or ["see Serve's logs"])[-1]
