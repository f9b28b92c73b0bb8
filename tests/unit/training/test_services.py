"""The order in which the parts of a run are started and ended, as each of them is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamgym.config import RunConfig
from dreamgym.errors import ModelError
from dreamgym.runtime.cluster import Machine
from dreamgym.runtime.precision import Precision
from dreamgym.training import services as room
from dreamgym.training.services import Services, start_services

SHARED = {
    "train": {"colocate": True},
    "replay": {"top_k": 0},
    "policy": {"engine": {"gpu_memory_utilization": 0.4}},
    "world": {"engine": {"gpu_memory_utilization": 0.4}},
}
HUNG_S = 60.0


class Part:
    """Says what it is told; where it `hangs`, it is ready only once it is closed."""

    def __init__(self, name: str, told: list[str], hangs: bool = False, fails: bool = False) -> None:
        self.name, self._told, self._hangs, self._fails = name, told, hangs, fails
        self._closed = threading.Event()
        self.seats = 77
        self.engines = ["an engine"]
        self.world = SimpleNamespace(sleep=self._later("sleep"), wake=self._later("wake"))
        told.append(f"{name} begins")

    def ready(self) -> None:
        if self._fails:
            raise ModelError(f"{self.name} cannot be loaded")
        if self._hangs and not self._closed.wait(HUNG_S):
            raise AssertionError(f"nobody ended {self.name}")
        self._told.append(f"{self.name} is ready")

    def close(self) -> None:
        self._closed.set()

    def sleep(self) -> None:
        self._told.append(f"{self.name} sleeps")

    def wake(self) -> None:
        self._told.append(f"{self.name} wakes")

    def empty_cache(self) -> None:
        self._told.append(f"{self.name} empties its cache")

    def connect(self, engines: Any, ranks: int, timeout_s: float) -> None:
        self._told.append(f"{self.name} meets the engines")

    def _later(self, method: str) -> Callable[[], Any]:
        async def call() -> None:
            getattr(self, method)()

        return call


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`start_services` on parts that do nothing: (configuration, how each differs) -> services, what was told."""
    machine = Machine(None, True, 0.0, False, Precision(True, "it has it"))
    monkeypatch.setattr(room, "ensure_ray", lambda _: machine)

    def started(fields: dict[str, Any], **differs: dict[str, bool]) -> tuple[Callable[[], Services], list[str], list]:
        told: list[str] = []
        given: list[Any] = []
        make = {name: lambda *_, name=name, **__: Part(name, told, **differs.get(name, {})) for name in NAMES}
        monkeypatch.setattr(room, "require", lambda asks, device, again: given.append((asks, device)))
        monkeypatch.setattr(room.PolicyPool, "begin", make["policy"])
        monkeypatch.setattr(room, "deploy_dream", make["dream"])
        monkeypatch.setattr(room, "Learner", make["learner"])
        monkeypatch.setattr(room, "RolloutFleet", lambda config, *_: given.append(config))
        config = RunConfig.model_validate(fields)
        call = lambda: start_services(config, Path("p"), world=Path("w"), learner=True)  # noqa: E731
        return call, told, given

    return started


NAMES = ("policy", "dream", "learner")


def test_those_who_share_a_gpu_load_one_after_the_other(start: Any) -> None:
    call, told, _ = start({**SHARED})
    services = call()
    loading = ["learner begins", "learner is ready", "learner empties its cache"]
    asleep, awake = ["policy sleeps", "dream sleeps"], ["policy wakes", "dream wakes"]
    alone = [f"{name} {does}" for name in ("policy", "dream") for does in ("begins", "is ready")]
    assert told == [*alone, *asleep, *loading, *awake, "learner meets the engines"]
    with services.engines_asleep():
        told.append("step")
    assert told[len(alone) + 8 :] == [*asleep, "step", "learner empties its cache", *awake]


def test_a_step_that_fails_leaves_the_engines_awake(start: Any) -> None:
    call, told, _ = start({**SHARED})
    services = call()
    with pytest.raises(ModelError), services.engines_asleep():
        raise ModelError("lost")
    assert told[-2:] == ["policy wakes", "dream wakes"]


def test_with_gpus_of_their_own_nobody_sleeps_and_seats_are_told(start: Any) -> None:
    call, told, given = start({"replay": {"top_k": 0}, "device": "gpu"})
    with call().engines_asleep():
        pass
    started = [f"{name} {does}" for name in NAMES for does in ("begins", "is ready")]
    assert told[-1] == "learner meets the engines" and sorted(told[:-1]) == sorted(started)
    (asks, device), config = given
    assert ([ask.field for ask in asks], device) == (["policy.engines", "world.replicas", "learner.workers"], "gpu")
    assert config.policy.engine.max_num_seqs == config.world.engine.max_num_seqs == 77


@pytest.mark.parametrize("failing", NAMES)
def test_one_part_that_fails_ends_those_that_would_never_be_ready(start: Any, failing: str) -> None:
    differs = {name: {"fails": True} if name == failing else {"hangs": True} for name in NAMES}
    call, _, _ = start({"replay": {"top_k": 0}}, **differs)
    with pytest.raises(ModelError, match=f"{failing} cannot be loaded"):
        call()
