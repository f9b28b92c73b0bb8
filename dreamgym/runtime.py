"""Ray for a run: a local one unless a cluster is given, and how its processors and GPUs are shared out."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from dreamgym.serve.engine import quiet_environment

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Machine:
    """What each engine may use.

    threads  CPU threads of an engine (None where it computes on a GPU): half the cores, since policy and dream
             take turns with the processes that feed them, and a thread without a core holds up the others
    gpus     GPUs of an engine
    watched  whether Ray has a dashboard, which may show more than a run alone needs to know
    """

    threads: int | None
    gpus: float
    watched: bool


def ensure_ray() -> Machine:
    """Connect to `RAY_ADDRESS` (as `ray job submit` sets it), else start a local Ray; idempotent.

    A local Ray has no dashboard and no open port beyond loopback.
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
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    watched = bool(context.dashboard_url)
    if ray.cluster_resources().get("GPU", 0) > 0:
        return Machine(None, 1.0, watched)
    return Machine(max(1, (os.cpu_count() or 1) // 2), 0.0, watched)
