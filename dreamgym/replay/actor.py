"""The buffer as one Ray actor, where many single searches in flight become one batch, and its client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from dreamgym.config import ReplayConfig
from dreamgym.replay.buffer import ReplayBuffer, ReplayStats
from dreamgym.replay.gate import Verdict
from dreamgym.replay.records import Candidate, Demo, ReplayError, StoredTransition
from dreamgym.telemetry.tracing import Event, log_to_session

T = TypeVar("T")
log = logging.getLogger(__name__)
_WINDOW_S = 0.002
ADD_AT_ONCE = 2000
"""Items of one call: a buffer may be filled with 50,000, and an embedding model on CPU takes minutes over them."""


@dataclass(slots=True)
class _Batch:
    queries: list[tuple[str, str]]
    excluded: list[str | None]
    tasks: list[tuple[str, ...]]
    answer: asyncio.Task[list[list[Demo]]] | None = None


class ReplayActor:
    """`ReplayBuffer` for the whole cluster; see there for what each method does and raises."""

    def __init__(self, config: ReplayConfig, seed: int, collection: str) -> None:
        log_to_session()
        self._make = partial(ReplayBuffer, config, seed, collection)
        self._open: dict[int, _Batch] = {}
        self._batches = 0

    @cached_property
    def _buffer(self) -> ReplayBuffer:
        """Made at the first call, so that a service that is down is an answer to it, not the actor's death."""
        return self._make()

    async def search(
        self,
        queries: Sequence[tuple[str, str]],
        k: int,
        exclude_trajectories: Sequence[str | None] | None = None,
        tasks: Sequence[tuple[str, ...]] | None = None,
    ) -> list[list[Demo]]:
        """Requests that arrive within 2 ms of the first are embedded and searched together."""
        excluded = exclude_trajectories if exclude_trajectories is not None else [None] * len(queries)
        lineages = tasks if tasks is not None else [()] * len(queries)
        if not len(excluded) == len(lineages) == len(queries):
            raise ValueError("exclude_trajectories and tasks must have one entry a query")
        batch = self._open.setdefault(k, _Batch([], [], []))
        if batch.answer is None:
            batch.answer = asyncio.create_task(self._run(batch, k))
        start = len(batch.queries)
        batch.queries += queries
        batch.excluded += excluded
        batch.tasks += lineages
        found = await asyncio.shield(batch.answer)
        return found[start : start + len(queries)]

    async def add(self, items: Sequence[StoredTransition]) -> int:
        """Add, then prune."""
        added = self._buffer.add(items)
        self._buffer.prune()
        return added

    async def screen(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        return _logged(candidates, self._buffer.screen(candidates), refused_only=True)

    async def offer(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        return _logged(candidates, self._buffer.offer(candidates))

    async def dreamed(self) -> list[StoredTransition]:
        return [item for item in self._buffer.items() if item.world == "dream"]

    async def stats(self) -> ReplayStats:
        return self._buffer.stats()

    async def check(self) -> None:
        self._buffer.check()

    async def save(self, folder: Path) -> None:
        self._buffer.save(folder)

    async def load(self, folder: Path) -> None:
        self._buffer.load(folder)

    async def batches(self) -> int:
        """How many searches of the index have been made: fewer than requests, where those came together."""
        return self._batches

    async def _run(self, batch: _Batch, k: int) -> list[list[Demo]]:
        await asyncio.sleep(_WINDOW_S)
        del self._open[k]
        self._batches += 1
        return self._buffer.search(batch.queries, k, batch.excluded, batch.tasks)


def _logged(candidates: Sequence[Candidate], verdicts: list[Verdict], refused_only: bool = False) -> list[Verdict]:
    for candidate, verdict in zip(candidates, verdicts, strict=True):
        if not (verdict.admitted and refused_only):
            what, item = "admitted" if verdict.admitted else "refused", candidate.item
            why = {} if verdict.admitted else {"reason": verdict.reason, "detail": verdict.detail}
            log.info(Event(what, trajectory=item.trajectory_id, step=item.step, **why))
    return verdicts


def start_replay(config: ReplayConfig, seed: int, collection: str) -> Any:
    """Start the actor (it reserves no CPU) and return its handle, to be given to a `ReplayClient`."""
    handle = ray.remote(ReplayActor).options(num_cpus=0).remote(config, seed, collection)
    handle.check.remote()  # the buffer is made while the caller goes on; who asks next hears of a failure
    return handle


class ReplayClient:
    """A handle of the actor with a deadline on every call; it can be sent to other actors."""

    def __init__(self, handle: Any, timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def search(
        self,
        queries: Sequence[tuple[str, str]],
        k: int,
        exclude_trajectories: Sequence[str | None] | None = None,
        tasks: Sequence[tuple[str, ...]] | None = None,
    ) -> list[list[Demo]]:
        """See `ReplayBuffer.search`.

        Raises:
            ReplayError: no answer within the deadline, or the actor is dead.
        """
        return await self._bounded("search", self._handle.search.remote(queries, k, exclude_trajectories, tasks))

    async def add(self, items: Sequence[StoredTransition]) -> int:
        """Add, then prune; see `ReplayBuffer.add`. Each `ADD_AT_ONCE` items have the deadline to themselves."""
        parts = [items[at : at + ADD_AT_ONCE] for at in range(0, len(items), ADD_AT_ONCE)]
        return sum([await self._bounded("add", self._handle.add.remote(part)) for part in parts])

    async def screen(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """See `ReplayBuffer.screen`."""
        return await self._bounded("screen", self._handle.screen.remote(candidates))

    async def offer(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """See `ReplayBuffer.offer`."""
        return await self._bounded("offer", self._handle.offer.remote(candidates))

    async def dreamed(self) -> list[StoredTransition]:
        """All dreamed transitions that the buffer holds, oldest first."""
        return await self._bounded("dreamed", self._handle.dreamed.remote())

    async def stats(self) -> ReplayStats:
        """See `ReplayBuffer.stats`."""
        return await self._bounded("stats", self._handle.stats.remote())

    async def check(self) -> None:
        """See `ReplayBuffer.check`."""
        await self._bounded("check", self._handle.check.remote())

    async def save(self, folder: Path) -> None:
        """See `ReplayBuffer.save`; the folder must be one that the actor's machine shares."""
        await self._bounded("save", self._handle.save.remote(folder))

    async def load(self, folder: Path) -> None:
        """See `ReplayBuffer.load`."""
        await self._bounded("load", self._handle.load.remote(folder))

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._handle)

    async def _bounded(self, what: str, answer: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(answer, self._timeout_s)
        except TimeoutError as error:
            raise ReplayError(
                f"replay.timeout_s: no answer to {what} in {self._timeout_s:g} s; raise it, or see the actor's log."
            ) from error
        except RayTaskError as error:
            raise error.cause or error from error
        except RayActorError as error:
            raise ReplayError(
                f"replay: the replay actor died ({type(error).__name__}); resume from a checkpoint."
            ) from error
