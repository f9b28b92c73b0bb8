"""Starts applications on Ray Serve: the dream (experience model and task generator), and a model that chats."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from dreamgym.config import EngineConfig, RunConfig
from dreamgym.errors import EngineError
from dreamgym.inference.engine import MODULES
from dreamgym.inference.engine_args import CPU_SEATS, MOST_SEATS
from dreamgym.replay.actor import ReplayClient
from dreamgym.runtime import event_loop, fork_server
from dreamgym.runtime.placement import LOAD_TIMEOUT_S
from dreamgym.serve.chat_api import ChatRequest, Completion, Fault
from dreamgym.serve.chat_model import ChatModel
from dreamgym.serve.dream import WorldClient
from dreamgym.serve.experience import ExperienceModel
from dreamgym.serve.scaling import replicas_for_load
from dreamgym.serve.seen_outcomes import read_outcomes
from dreamgym.serve.tasks import TaskGenerator

POLL_S = 0.5
"""Each look at Serve's status costs some 20 ms of a core (2.60): it pickles a class that holds much."""
WORLD, TASKS, CHAT = "ExperienceModel", "TaskGenerator", "ChatModel"
What = Literal["world", "policy"]


@dataclass(slots=True)
class DreamApp:
    """A running dream: its Serve application, the model that it dreams with, and clients for the driver.

    `seats` are the sequences that a replica's engine decodes at once, known once the dream is ready.
    """

    name: str
    model: Path
    world: WorldClient
    tasks: Any
    _deploy: Callable[[Path], Any]
    seats: int = 0

    def ready(self) -> None:
        """Wait until replicas are ready.

        Raises:
            EngineError: none became ready; the sentence is the replica's own where it has one.
        """
        _wait(self.name, f"the experience model at {self.model}")
        self.seats = event_loop.run(self.world.seats())

    def load(self, model: Path) -> None:
        """Go on with another model: Serve starts replica after replica anew. With only one, dreams wait meanwhile.

        Raises:
            EngineError: no replica became ready.
        """
        self.tasks = self._deploy(model)
        _wait(self.name, f"the experience model at {model}")
        self.model = model

    def close(self) -> None:
        """Stop the replicas."""
        serve.delete(self.name)


@dataclass(frozen=True, slots=True)
class ChatApp:
    """A running model that chats: its Serve application and how to ask it."""

    name: str
    handle: Any
    timeout_s: float

    async def complete(self, asked: ChatRequest) -> Completion | Fault:
        """The answer of a replica; one that fails or is late is a fault too."""
        try:
            return await asyncio.wait_for(self.handle.complete.remote(asked), self.timeout_s + 10.0)
        except (TimeoutError, RayError, RayServeException) as error:
            return Fault(503, f"no replica answered ({type(error).__name__})")

    def close(self) -> None:
        """Stop the replicas."""
        serve.delete(self.name)


def start_dream(config: RunConfig, model: Path, replay: ReplayClient | None, **options: Any) -> DreamApp:
    """`deploy_dream`, and wait until a replica is ready; raises what `DreamApp.ready` does."""
    app = deploy_dream(config, model, replay, **options)
    app.ready()
    return app


def deploy_dream(
    config: RunConfig,
    model: Path,
    replay: ReplayClient | None,
    *,
    threads: int | None,
    gpus: float = 0.0,
    suffix: str = "",
) -> DreamApp:
    """Begin to start a dream. No port is opened: calls go through Ray.

    It gives the rewards that the run's annotated data holds, and no others.

    Args:
        suffix: tells a second dream of the same run from the first.
    """
    name = f"dream-{config.name}-seed{config.seed}{suffix}"
    _start_serve()
    least, most = config.world.replicas, max(config.world.replicas, config.world.max_replicas)
    replicas = _engines(ExperienceModel, WORLD, config, config.world.engine, least, most, gpus)
    generator = serve.deployment(
        TaskGenerator, name=TASKS, ray_actor_options={"num_cpus": 0}, graceful_shutdown_timeout_s=5
    )

    seen = read_outcomes(config.run_dir / "data" / "annotated.parquet")

    def deploy(model: Path) -> Any:
        world = replicas.bind(str(model), config, replay, threads, seen)
        return _deploy(generator.bind(world, config, replay), name)

    tasks = deploy(model)
    world = WorldClient(serve.get_deployment_handle(WORLD, app_name=name), config.world)
    return DreamApp(name, model, world, tasks, deploy)


def start_chat(config: RunConfig, what: What, model: Path, *, threads: int | None, gpus: float = 0.0) -> ChatApp:
    """Deploy a model that chats, and wait until a replica is ready; its port is for the caller to open.

    The policy acts as in evaluations (`policy.eval_temperature`), the experience model as in dreams.

    Raises:
        EngineError: no replica became ready; the sentence is the replica's own where it has one.
    """
    name = f"chat-{what}-{config.name}-seed{config.seed}"
    side = config.world if what == "world" else config.policy
    least, most = config.policy.engines, config.policy.engines
    sampling = config.policy.sampling.model_copy(update={"temperature": config.policy.eval_temperature})
    if what == "world":
        least, most = config.world.replicas, max(config.world.replicas, config.world.max_replicas)
        sampling = config.world.sampling
    _start_serve()
    replicas = _engines(ChatModel, CHAT, config, side.engine, least, most, gpus)
    bound = replicas.bind(str(model), side.engine, sampling, side.model.dtype, config.seed, threads)
    handle = _deploy(bound, name)
    _wait(name, f"the model at {model}")
    return ChatApp(name, handle, side.engine.timeout_s)


def _start_serve() -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})


def _engines(
    model: type, name: str, config: RunConfig, engine: EngineConfig, least: int, most: int, gpus: float
) -> serve.Deployment:
    """A deployment with one engine a replica; how many there are follows the engines' load."""
    return serve.deployment(
        model,
        name=name,
        max_ongoing_requests=4 * (engine.max_num_seqs or (MOST_SEATS if gpus else CPU_SEATS)),
        autoscaling_config={
            "min_replicas": least,
            "max_replicas": most,
            "policy": {"policy_function": replicas_for_load},
            "look_back_period_s": config.world.upscale_delay_s,
            "upscale_delay_s": config.world.upscale_delay_s,
            "downscale_delay_s": config.world.downscale_delay_s,
        },
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus} | fork_server.options(*MODULES, gpus=gpus),
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=20,  # what it was asked and has not answered by then is asked of another
    )


def _deploy(app: serve.Application, name: str) -> Any:
    """The handle of an application that begins to start."""
    return serve.run_many([serve.RunTarget(app, name, route_prefix=None)], wait_for_applications_running=False)[0]


def _wait(name: str, what: str) -> None:
    """Until the replicas of an application are ready.

    Raises:
        EngineError: it failed, was ended meanwhile, or was not ready in time.
    """
    deadline = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        application = serve.status().applications.get(name)
        if application is None:
            raise EngineError(f"{what} was ended before it was ready.")
        if application.status == ApplicationStatus.RUNNING:
            return
        if application.status == ApplicationStatus.DEPLOY_FAILED:
            raise EngineError(f"{what} did not start: {_cause(application)}")
        if time.monotonic() > deadline:
            raise EngineError(f"{what} did not start in {LOAD_TIMEOUT_S:g} s: {_cause(application)}")
        time.sleep(POLL_S)


def _cause(application: ApplicationStatusOverview) -> str:
    """The replica's own sentence where Serve's messages hold one, else their last line."""
    told = [*(deployment.message for deployment in application.deployments.values()), application.message]
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    own = [line for line in lines if "dreamgym.errors." in line]
    return (own or lines or ["see Serve's logs"])[-1]
