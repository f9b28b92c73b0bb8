"""How a training goes on: what a checkpoint holds, when it counts, and how the loop gets back to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dreamgym.config import LearnerConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.errors import DataError
from dreamgym.runs.folder import write_json
from dreamgym.runs.ledger import Ledger
from dreamgym.runs.log import RunLog
from dreamgym.runs.remote_checkpoints import RemoteCheckpoints
from dreamgym.runtime import event_loop
from dreamgym.telemetry.clock import Clock
from dreamgym.training.checkpoints import checkpoints, state_of
from dreamgym.training.corrections import Corrections
from dreamgym.training.services import Services


@dataclass
class Totals:
    """What a training has come to so far.

    learned        transitions that were learned from, by world; a real one counts by whichever model learns from it
    real_measured  real transitions that were only measured on
    tokens         tokens read or written by models
    max_gap        largest mean gap between engine and learner logprobs, in nats; None before the first update
    """

    learned: dict[str, int] = field(default_factory=lambda: {"dream": 0, "real": 0})
    real_measured: int = 0
    tokens: int = 0
    max_gap: float | None = None

    def load(self, state: dict[str, Any]) -> None:
        """Go on from those of a checkpoint."""
        self.learned, self.real_measured = dict(state["learned"]), int(state["real_measured"])
        self.tokens, self.max_gap = int(state["tokens"]), state["max_gap"]


class Checkpointer:
    """Writes and reads the checkpoints of one training, in its folder and in a second place where there is one."""

    def __init__(
        self,
        folder: Path,
        settings: LearnerConfig,
        services: Services,
        *,
        keep: int,
        curriculum: Curriculum,
        corrections: Corrections,
        clock: Clock,
        totals: Totals,
        log: RunLog,
        ledger: Ledger,
        remote: RemoteCheckpoints | None,
        send: Callable[[int], object],
    ) -> None:
        """Args: `keep` checkpoints stay on disk; `send(version)` brings the engines to the learner's weights."""
        self._folder = folder
        self._settings = settings
        self._services = services
        self._keep = keep
        self._curriculum = curriculum
        self._corrections = corrections
        self._clock = clock
        self._totals = totals
        self._log = log
        self._ledger = ledger
        self._remote = remote
        self._send = send

    def save(self, iteration: int) -> None:
        """All that going on needs, in one folder that appears whole or not at all."""
        home = self._folder / "checkpoints"
        partial_home = home / f"iteration-{iteration:05d}.partial"
        shutil.rmtree(partial_home, ignore_errors=True)
        partial_home.mkdir(parents=True)
        self._services.learner.save_checkpoint(partial_home / "learner")  # type: ignore[union-attr]
        if self._services.replay is not None:
            event_loop.run(self._services.replay.save(partial_home))
        self._corrections.save(partial_home)
        state = {
            "iteration": iteration,
            "world": self._services.dream.model.name if self._services.dream is not None else "",
            "curriculum": self._curriculum.state(),
            **asdict(self._totals),
            "clock": self._clock.parts(),
            "learner": self._layout(),
        }
        write_json(partial_home / "state.json", state)
        whole = home / f"iteration-{iteration:05d}"
        shutil.rmtree(whole, ignore_errors=True)
        partial_home.rename(whole)
        for old in checkpoints(self._folder)[: -self._keep]:
            shutil.rmtree(old)
        self._forget_worlds()
        self._ledger.forget_draws(before=int(checkpoints(self._folder)[0].name.removeprefix("iteration-")))
        if self._remote is not None:
            self._remote.put(whole)

    def _forget_worlds(self) -> None:
        """Delete experience models that no checkpoint needs any more."""
        needed = {state_of(checkpoint)["world"] for checkpoint in checkpoints(self._folder)}
        for world in self._folder.glob("world-?????"):
            if world.name not in needed:
                shutil.rmtree(world)

    def resume(self, after: Path | None) -> int:
        """Back to the newest checkpoint, or to where the run begins; returns the iteration to go on from.

        Args:
            after: the folder of the run that this one goes on from, if any.

        Raises:
            DataError: a checkpoint is missing, or was written by another number of learner workers.
        """
        found = checkpoints(self._folder)
        if not found:
            first = 0 if after is None else self._take_over(after)
            self._log.truncate_after(-1)
            if self._ledger.draws(first):
                self._ledger.write("resumed", first)
            return first
        state = state_of(found[-1])
        iteration = int(state["iteration"])
        self._check_layout(found[-1], state)
        self._curriculum.load_state(state["curriculum"])
        self._totals.load(state)
        self._clock.go_on(state["clock"])
        self._services.learner.load_checkpoint(found[-1] / "learner")  # type: ignore[union-attr]
        if self._services.replay is not None:
            event_loop.run(self._services.replay.load(found[-1]))
        self._corrections.load(found[-1])
        self._log.truncate_after(iteration)
        self._ledger.write("resumed", iteration)
        self._send(iteration)
        return iteration

    def _layout(self) -> dict[str, int]:
        """What DeepSpeed's checkpoints depend on, though no result does."""
        return {name: int(getattr(self._settings, name)) for name in ("workers", "zero_stage")}

    def _check_layout(self, checkpoint: Path, state: dict[str, Any]) -> None:
        for name, value in self._layout().items():
            was = state.get("learner", {}).get(name, value)
            if was != value:
                raise DataError(
                    f"{checkpoint}: written with learner.{name}={was}, and only so can be read; set it again, or train "
                    "anew with --force."
                )

    def _take_over(self, folder: Path) -> int:
        """The learner, the values of the real tasks and the count of iterations of the run that ended in `folder`.

        Where there is a dream still, its buffer, its corrections and the invented tasks go on as well.
        """
        learner, policy = self._services.learner, self._services.policy
        assert learner is not None and policy is not None
        found = checkpoints(folder)
        if not found:
            raise DataError(f"{folder / 'checkpoints'}: no checkpoint to go on from; train again in a new run folder.")
        state = state_of(found[-1])
        iteration = int(state["iteration"])
        self._check_layout(found[-1], state)
        if self._services.dream is None:
            self._curriculum.take_over(state["curriculum"])
        else:
            self._curriculum.load_state(state["curriculum"])
            self._corrections.load(found[-1])
            if self._services.replay is not None:
                event_loop.run(self._services.replay.load(found[-1]))
        learner.load_checkpoint(found[-1] / "learner", momentum=False)
        if max(policy.versions()) < iteration:
            self._send(iteration)
        return iteration
