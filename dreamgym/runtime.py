"""Ray for a run: a local one unless a cluster is given, and how its processors and GPUs are shared out."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from dreamgym.config import Device
from dreamgym.quiet import quiet_environment

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Of a machine without GPUs, whose models are small: what Ray would take there is a third of a laptop's memory."""
ROLLOUT_CPUS = 0.5
"""A rollout actor mostly waits for engines."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What each engine may use.

    threads  CPU threads of an engine (None where it computes on a GPU): half the cores, since policy and dream
             take turns with the processes that feed them, and a thread without a core holds up the others
    gpu      whether engines and learner compute on GPUs
    cpus     CPUs to ask for, for each rollout actor: on a cluster, so that it adds nodes for them; not on one machine
    watched  whether Ray has a dashboard, which may show more than a run alone needs to know
    """

    threads: int | None
    gpu: bool
    cpus: float
    watched: bool

    def gpus(self, of: int, share: float = 1.0) -> float:
        """GPUs to ask for, for a process that computes on so many, of each of which it has a share."""
        return of * share if self.gpu else 0


def ensure_ray(device: Device = "auto") -> Machine:
    """Connect to `RAY_ADDRESS` (as `ray job submit` sets it), else start a local Ray; idempotent.

    A local Ray has no dashboard, and its ports ask for Ray's token. `device` is the setting of that name.
    """
    quiet_environment()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import ray

    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        context = ray.init(ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False)
    else:
        context = ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_object_store_bytes(device),
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    gpu = device == "gpu" or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    cpus = ROLLOUT_CPUS if os.environ.get("RAY_ADDRESS") else 0.0
    return Machine(
        threads=None if gpu else max(1, (os.cpu_count() or 1) // 2),
        gpu=gpu,
        cpus=cpus,
        watched=bool(context.dashboard_url),
    )


def _object_store_bytes(device: Device) -> int | None:
    """Room for objects of a local Ray; None is Ray's own choice, 30% of the memory.

    Where there are GPUs the models may be large, and each update of the weights would go through the disk.
    """
    from ray._private.accelerators import NvidiaGPUAcceleratorManager  # Ray counts by it, and tells nobody before

    gpus = 0 if device == "cpu" else NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return None if gpus else LOCAL_OBJECT_STORE_BYTES
