"""One local Ray for all files that can share it; a file that needs another kind of Ray starts its own, after them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from dreamgym.runtime import fork_server


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of the shared Ray would leave what PyTorch compiles."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def local_ray(compiled: Path) -> None:
    """The Ray that files share: four CPUs, no dashboard; it goes on until a file asks for `no_ray`."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with pytest.MonkeyPatch.context() as patch:
        here = [str(Path(__file__).parents[up]) for up in (2, 0)]  # workers import the classes of these files
        patch.setenv("PYTHONPATH", os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")]))
        patch.setenv("TORCH_EXTENSIONS_DIR", str(compiled))
        patch.setenv("RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "0.5")
        ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    fork_server.enable()


@pytest.fixture(scope="module")
def no_ray() -> Iterator[None]:
    """For a file that starts its own: none is running before it, and none is left after it."""
    ray.shutdown()
    fork_server.close()
    yield
    ray.shutdown()
    fork_server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import tiny_model

    return tiny_model(tmp_path_factory.mktemp("model") / "m")
