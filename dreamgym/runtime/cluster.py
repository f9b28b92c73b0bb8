"""Ray for a run: a local one unless a cluster is given, and how its processors and GPUs are shared out."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamgym.config import Device, ModelConfig, RunConfig, TuningConfig
from dreamgym.errors import ConfigError
from dreamgym.runtime import fork_server, precision
from dreamgym.runtime.precision import Precision
from dreamgym.runtime.quiet import quiet_environment
from dreamgym.telemetry.console import console

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a machine without GPUs, whose models are small: what Ray would take there is a third of a laptop's memory."""
ROLLOUT_CPUS = 0.5
"""A rollout actor mostly waits for engines."""
PROBE_TIMEOUT_S = 60.0
_AHEAD = Precision(True, "GPUs that are still to be added are taken to be Ampere or newer")


@dataclass(frozen=True, slots=True)
class Machine:
    """What each engine may use.

    threads    CPU threads of an engine (None where it computes on a GPU): half the cores, since policy and dream
               take turns with the processes that feed them, and a thread without a core holds up the others
    gpu        whether engines and learner compute on GPUs
    cpus       CPUs to ask for, for each rollout actor: on a cluster, so that it adds nodes for them; not on one machine
    watched    whether Ray has a dashboard, which may show more than a run alone needs to know
    precision  what a `dtype` of auto means here
    dashboard  host and port of Ray's dashboard; empty where there is none
    """

    threads: int | None
    gpu: bool
    cpus: float
    watched: bool
    precision: Precision
    dashboard: str = ""

    def gpus(self, of: int, share: float = 1.0) -> float:
        """GPUs to ask for, for a process that computes on so many, of each of which it has a share."""
        return of * share if self.gpu else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a machine can compute with; `cuda` says whether its PyTorch is a build for NVIDIA GPUs."""

    cpu: Precision
    gpus: Precision | None
    cuda: bool


def ensure_ray(device: Device = "auto") -> Machine:
    """Connect to `RAY_ADDRESS` (as `ray job submit` sets it), else start a local Ray; idempotent.

    A local Ray has no dashboard, and its ports ask for Ray's token. `device` is the setting of that name.

    Raises:
        ConfigError: `device` is gpu, and the PyTorch that is installed is a CPU build.
    """
    quiet_environment()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ray

    joins = ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))
    if joins:
        context = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
    else:
        context = ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_object_store_bytes(device),
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    counted = ray.cluster_resources().get("GPU", 0) > 0
    machines = _machines(ray.get_runtime_context().get_session_name(), device != "cpu" and counted)
    gpu = device == "gpu" or (device == "auto" and counted and all(seen.cuda for seen in machines))
    if device == "gpu" and not all(seen.cuda for seen in machines):
        raise ConfigError(
            "device: gpu was asked for, but the PyTorch that is installed is a build for CPUs; install the extra "
            "`gpu` (`make setup EXTRA=gpu`), or set device=cpu."
        )
    if not joins and not gpu:
        fork_server.enable()
    suits = precision.of_all(found for seen in machines if (found := seen.gpus if gpu else seen.cpu))
    return Machine(
        threads=None if gpu else max(1, (os.cpu_count() or 1) // 2),
        gpu=gpu,
        cpus=ROLLOUT_CPUS if os.environ.get("RAY_ADDRESS") else 0.0,
        watched=bool(context.dashboard_url),
        precision=suits or _AHEAD,
        dashboard=context.dashboard_url or "",
    )


def settled(config: RunConfig, machine: Machine) -> RunConfig:
    """A copy of the configuration in which all that follows the machine is decided; says so once, in a line.

    Precisions that were left open take what the hardware multiplies natively, and engines export their statistics
    where somebody can look. A precision that was asked for and is slow here is one warning.
    """
    settled = config.model_copy(deep=True)
    asked = _precisions(settled)
    for section in asked.values():
        section.dtype = machine.precision.dtype(section.dtype)  # type: ignore[assignment]
    for engine in (settled.policy.engine, settled.world.engine):
        engine.export_stats = machine.watched if engine.export_stats is None else engine.export_stats
    tell_precision(config, machine)
    if job := submission_id():
        _say(f"[dim]{where_to_look(config, machine.dashboard, job)}[/]")
    return settled


def submission_id() -> str:
    """The id under which `ray job submit` knows this process; empty where nobody submitted it."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    return str(job.get("metadata", {}).get("job_submission_id", ""))


def where_to_look(config: RunConfig, dashboard: str, job: str) -> str:
    """Where a person sees how a job goes on: Ray's page of it where Ray has a dashboard, and the run's own page."""
    page = f"the job's page is http://{dashboard}/#/jobs/{job}; " if dashboard else ""
    return (
        f"{page}every episode is shown by `dreamgym view {config.run_dir.absolute()}`, on a machine that has the folder"
    )


def tell_precision(config: RunConfig, machine: Machine) -> None:
    """Say what a `dtype` of auto is here and why, and which others are slow; the same words once a process."""
    if any(section.dtype == "auto" for section in _precisions(config).values()):
        _say(f"[dim]precision: {machine.precision.dtype()}, as {machine.precision.because}[/]")
    if slow := slow_precisions(config, machine):
        _say(f"[yellow]{', '.join(slow)}: bfloat16 is slow here, as {machine.precision.because}; auto is faster[/]")


def slow_precisions(config: RunConfig, machine: Machine) -> list[str]:
    """The fields that ask for a precision which this hardware has to emulate."""
    return [name for name, section in _precisions(config).items() if machine.precision.slow(section.dtype)]


def _precisions(config: RunConfig) -> dict[str, ModelConfig | TuningConfig]:
    """The sections that hold a `dtype`, by the field's name."""
    return {
        "world.model.dtype": config.world.model,
        "world.sft.dtype": config.world.sft,
        "world.refresh.sft.dtype": config.world.refresh.sft,
        "policy.model.dtype": config.policy.model,
        "policy.sft.dtype": config.policy.sft,
        "policy.dpo.dtype": config.policy.dpo,
    }


@functools.cache
def _say(line: str) -> None:
    console.print(line, soft_wrap=True)


@functools.cache
def _machines(session: str, gpus: bool) -> list[Seen]:
    """What the machines of a Ray session can compute with: this one, or the nodes of a cluster (those with GPUs)."""
    if not os.environ.get("RAY_ADDRESS"):
        return [see()]
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and (not gpus or node["Resources"].get("GPU", 0) > 0)]
    look = ray.remote(num_cpus=0)(see)
    asked: list[Any] = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    return list(ray.get(asked, timeout=PROBE_TIMEOUT_S))


def see() -> Seen:
    """What this machine can compute with; torch is not imported for it."""
    return Seen(precision.of_cpu(), precision.of_gpus(), torch_is_for_gpus())


def torch_is_for_gpus() -> bool:
    """Whether the installed PyTorch is a CUDA build; torch is not imported for it."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    return bool(runpy.run_path(str(Path(found.origin).with_name("version.py")))["cuda"])


def _object_store_bytes(device: Device) -> int | None:
    """Room for objects of a local Ray; None is Ray's own choice, 30% of the memory.

    Where there are GPUs the models may be large, and each update of the weights would go through the disk.
    """
    from ray._private.accelerators import NvidiaGPUAcceleratorManager  # Ray counts by it, and tells nobody before

    gpus = 0 if device == "cpu" else NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return None if gpus else LOCAL_OBJECT_STORE_BYTES
