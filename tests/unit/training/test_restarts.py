"""When a part dies the stage starts everything again: how often, what is closed, and which errors are not worth it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from rich.console import Console

from dreamgym.config import RunConfig
from dreamgym.errors import DataError, DreamgymError, EngineError
from dreamgym.telemetry.console import progress
from dreamgym.training import restarts
from dreamgym.training.services import Services

Fails = Callable[[Path], Exception | None]
"""What one life of the run comes to: it may leave a checkpoint in the folder, and raises what it returns."""


def died(_: Path) -> Exception:
    return EngineError("a policy engine died.")


def died_after_checkpoint(iteration: int) -> Fails:
    def life(folder: Path) -> Exception:
        (folder / "checkpoints" / f"iteration-{iteration:05d}").mkdir(parents=True)
        return ActorDiedError()

    return life


@pytest.fixture
def survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list[Services], str]]:
    """Runs lives one after another; returns the services of all of them, and what was said."""

    def run(
        *lives: Fails,
        max_restarts: int = 2,
        running: Services | None = None,
        start: Callable[[], Services] = made,
    ) -> tuple[list[Services], str]:
        waited.clear()
        config = RunConfig.model_validate({"out": tmp_path, "train": {"max_restarts": max_restarts}})
        fates, said = iter(lives), Console(file=io.StringIO(), width=200)
        monkeypatch.setattr(restarts, "console", said)
        monkeypatch.setattr(restarts.time, "sleep", waited.append)

        class Trainer:
            folder = tmp_path / "train"

            def __init__(self, services: Services) -> None:
                lived.append(services)

            def run(self, bar: Any) -> int:
                if error := next(fates)(self.folder):
                    raise error
                return 7

        with progress("train", 7, Console(file=io.StringIO())) as bar:
            services, _, iterations = restarts.train_with_restarts(
                config.train,
                Trainer.folder,
                start,
                Trainer,
                tmp_path / "policy",
                bar,
                running,  # type: ignore[arg-type]
            )
        assert services is lived[-1] and iterations == 7
        return lived, said.file.getvalue()  # type: ignore[attr-defined]

    lived: list[Services] = []
    waited: list[float] = []
    run.waited = waited  # type: ignore[attr-defined]
    run.lived = lived  # type: ignore[attr-defined]
    return run


def made() -> Services:
    part = SimpleNamespace(closed=0, save=lambda path: None)
    part.close = lambda: setattr(part, "closed", part.closed + 1)
    return Services(learner=part)  # type: ignore[arg-type]


def closed(started: list[Services]) -> list[int]:
    return [services.learner.closed for services in started]  # type: ignore[union-attr]


def test_all_is_closed_and_started_again_and_the_last_is_the_callers_to_close(survive: Any) -> None:
    started, said = survive(died, died, lambda folder: None)
    assert closed(started) == [1, 1, 0]
    assert said.count("a policy engine died. Starting again from the last checkpoint.") == 2


def test_without_a_new_checkpoint_it_gives_up_after_max_restarts(survive: Any) -> None:
    with pytest.raises(EngineError, match=r"a policy engine died\. \(train\.max_restarts=2 did not help\)"):
        survive(died, died, died)
    assert closed(survive.lived) == [1, 1, 1]


def starting(*succeeds: bool) -> Callable[[], Services]:
    """Starts, one after another, of which those that are False fail."""
    left = iter(succeeds)

    def start() -> Services:
        if next(left):
            return made()
        raise EngineError("a policy engine died.")

    return start


def test_a_start_that_fails_is_tried_again_later_each_time_longer_but_the_first_one_is_not(survive: Any) -> None:
    start = starting(True, False, False, True)  # two fall on a node of which nobody knows it is dead
    started, said = survive(died, lambda folder: None, max_restarts=3, start=start)
    assert len(started) == 2
    assert said.count("Starting again") == 3
    assert survive.waited == [0.0, 0.0, restarts.SETTLE_S, 2 * restarts.SETTLE_S]
    with pytest.raises(EngineError, match=r"^a policy engine died\.$"):
        survive(start=starting(False))


def test_the_first_start_of_a_run_that_goes_on_is_tried_again(survive: Any, tmp_path: Path) -> None:
    (tmp_path / "train" / "checkpoints" / "iteration-00004").mkdir(parents=True)
    started, said = survive(lambda folder: None, start=starting(False, True))
    assert len(started) == 1 and said.count("Starting again") == 1


def test_a_checkpoint_in_between_earns_new_restarts(survive: Any) -> None:
    started, _ = survive(
        died, died, died_after_checkpoint(2), died, died_after_checkpoint(4), died, lambda folder: None
    )
    assert closed(started) == [1] * 6 + [0]


def test_what_ran_before_is_used_first_and_closed_once_where_it_dies(survive: Any) -> None:
    running = made()
    lived, _ = survive(lambda folder: None, running=running)
    assert lived == [running] and closed(lived) == [0]
    lived.clear()
    with running:  # as its owner does
        survive(died, lambda folder: None, running=running)
    assert lived[0] is running and closed(lived) == [1, 0]


@pytest.mark.parametrize(
    "error",
    [DataError("no data."), RayTaskError("step", "trace", ValueError("a bug")).as_instanceof_cause()],
    ids=["data", "bug"],
)
def test_what_would_fail_again_is_not_tried_again(survive: Any, error: Exception) -> None:
    with pytest.raises((DreamgymError, ValueError)) as raised:
        survive(lambda folder: error)
    assert raised.value is error
    assert closed(survive.lived) == [1]


def test_a_failure_of_ours_inside_an_actor_is_told_in_its_own_words(survive: Any) -> None:
    error = RayTaskError("step", "Traceback\nof many lines", EngineError("the engine is silent.")).as_instanceof_cause()
    started, said = survive(lambda folder: error, lambda folder: None)
    assert len(started) == 2
    assert said.startswith("the engine is silent. Starting again")
