"""A training outlives an engine, learner, buffer or node that dies: all is started again, and goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from ray.exceptions import RayError, RayTaskError
from rich.markup import escape

from dreamgym.config import TrainConfig
from dreamgym.errors import DreamgymError, EngineError
from dreamgym.replay.records import ReplayError
from dreamgym.telemetry.console import Bar, console
from dreamgym.training.checkpoints import checkpoints
from dreamgym.training.services import Services
from dreamgym.training.trainer import Trainer

SETTLE_S = 10.0
"""How much longer each restart waits than the one before: Ray needs a while to notice that a node is dead, and until
then may place new parts on it."""
DIED = (EngineError, ReplayError, RayError, TimeoutError)


def train_with_restarts(
    config: TrainConfig,
    folder: Path,
    start: Callable[[], Services],
    trainer_of: Callable[[Services], Trainer],
    policy: Path,
    bar: Bar,
    running: Services | None = None,
) -> tuple[Services, Trainer, int]:
    """Train to the end and save the policy; where a part dies, all are started again and go on from a checkpoint.

    A very first start that fails is not tried again: what never ran would fail alike.

    Args:
        folder: that of the trainer, with its checkpoints.
        policy: the folder of the last weights.
        running: services to begin with; they are closed where that fails.

    Returns:
        The services, for the caller to close; the trainer; and the number of the last iteration.

    Raises:
        DreamgymError: what failed is not mended by starting again, or was not by `train.max_restarts` of them.
    """
    restarts, last = 0, None
    trainer: Trainer | None = None
    while True:
        time.sleep(SETTLE_S * max(0, restarts - 1))
        with ExitStack() as until_over:
            try:
                services, running = until_over.enter_context(running or start()), None
                trainer = trainer_of(services)
                iterations = trainer.run(bar)
                services.learner.save(policy)  # type: ignore[union-attr]
                until_over.pop_all()
                return services, trainer, iterations
            except DIED as error:
                newest = checkpoints(folder)[-1:]
                if trainer is None and not newest:
                    raise
                if isinstance(error, RayTaskError) and not isinstance(error.cause, DreamgymError):
                    raise  # code that failed inside an actor would fail again
                restarts, last = restarts + 1 if newest == last else 1, newest
                if restarts > config.max_restarts:
                    raise EngineError(
                        f"{_first_line(error)} (train.max_restarts={restarts - 1} did not help)"
                    ) from error
                console.print(f"[yellow]{escape(_first_line(error))}[/] Starting again from the last checkpoint.")


def _first_line(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error  # an error that crossed Ray carries its traceback as text
    return (str(cause).strip().splitlines() or [type(error).__name__])[0]
