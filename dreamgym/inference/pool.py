"""The policy's engines as rollouts and the learner talk to them: a pool of actors, each around one vLLM engine."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from dreamgym.config import PolicyConfig, SamplingConfig
from dreamgym.errors import DreamgymError, EngineError, WeightSyncError
from dreamgym.inference.batching import merged
from dreamgym.inference.engine import MODULES, Generation
from dreamgym.inference.policy_engine import Answered, PolicyEngine, Request
from dreamgym.inference.weight_transfer import WeightPayload, fingerprint
from dreamgym.runtime import fork_server
from dreamgym.runtime.placement import LOAD_TIMEOUT_S, Reservation

T = TypeVar("T")
SPILL = 4
"""An episode leaves its engine where that has more than twice as many requests as another, and so many more."""
REMEMBERED = 10_000
"""Episodes whose engine is remembered: those of the latest turns."""


class PolicyPool:
    """A handle on several `engines`; every rollout actor makes one of its own of them.

    Each counts its own outstanding requests and sends the next one where it has the fewest. The turns of one episode
    stay together, since each begins with all that the engine has read in the last.
    """

    def __init__(
        self, engines: Sequence[Any], names: Sequence[str], timeout_s: float, seats: Reservation | None = None
    ) -> None:
        """`engines` are handles of `PolicyEngine` actors, `names` theirs; `timeout_s` is that of one request.

        `seats` is what `close` gives back.
        """
        self._reserved = seats
        self._started = seats is None
        self.engines, self.names = list(engines), list(names)
        self._timeout_s = timeout_s
        self._outstanding = [0] * len(self.engines)
        self._homes: dict[str, int] = {}

    @classmethod
    def named(cls, names: Sequence[str], timeout_s: float) -> PolicyPool:
        """A pool of engines that another one has started and holds.

        Raises:
            EngineError: there is no engine of that name.
        """
        try:
            return cls([ray.get_actor(name) for name in names], names, timeout_s)
        except ValueError as error:
            raise EngineError(f"a policy engine is gone ({error}).") from error

    @classmethod
    def start(cls, model: str | Path, config: PolicyConfig, **options: Any) -> PolicyPool:
        """`begin`, and wait until the engines are ready; raises what `ready` does."""
        pool = cls.begin(model, config, **options)
        try:
            pool.ready()
        except DreamgymError:
            pool.close()
            raise
        return pool

    @classmethod
    def begin(
        cls,
        model: str | Path,
        config: PolicyConfig,
        *,
        seed: int = 0,
        threads: int | None = None,
        gpus: float = 0,
        colocated: bool = False,
        **options: Any,
    ) -> PolicyPool:
        """Begin to start `config.engines` engines, each on `gpus` GPUs of one node; `options` are Ray's, if any."""
        seats = Reservation(config.engines, gpus)
        rest = {"dtype": config.model.dtype, "threads": threads, "lora": config.lora, "colocated": colocated}
        pool_id = uuid.uuid4().hex[:12]
        names = [f"policy-{pool_id}-{index}" for index in range(config.engines)]
        forked = fork_server.options(*MODULES, gpus=gpus)
        engines = [
            ray.remote(PolicyEngine)
            .options(name=name, **seats.options(index), **forked, **options)
            .remote(str(model), config.engine, seed=seed + index, **rest)
            for index, name in enumerate(names)
        ]
        return cls(engines, names, config.engine.timeout_s, seats)

    def ready(self) -> None:
        """Wait until all engines hold the model.

        Raises:
            ModelError: the model cannot be loaded.
            EngineError: an engine died or was not ready in time.
        """
        self._all("ready", LOAD_TIMEOUT_S)
        self._started = True

    @property
    def seats(self) -> int:
        """Sequences that an engine decodes at once."""
        return min(self._all("seats", self._timeout_s))

    def __len__(self) -> int:
        return len(self.engines)

    async def generate(
        self, prompt_ids: list[int], *, seed: int | None, sampling: SamplingConfig, stop_ids: list[int]
    ) -> Generation:
        """One answer from the engine with the fewest outstanding requests; see `TokenEngine.generate`.

        Raises:
            ContextFull: the prompt fills the context window.
            EngineError: the engine died, failed, or did not answer in time.
        """
        index = self._book()
        try:
            answer = self.engines[index].generate.remote(prompt_ids, seed, sampling, stop_ids)
            return await self._within_deadline(answer, asyncio.get_running_loop().time() + self._timeout_s)
        finally:
            self._outstanding[index] -= 1

    def generate_many(
        self, requests: Sequence[Request], *, sampling: SamplingConfig, stop_ids: list[int], whose: Sequence[str] = ()
    ) -> AsyncIterator[list[Answered]]:
        """Answers as they end, by one remote call an engine; a request that failed yields its error.

        Args:
            whose: the episode of each request, where they are turns of episodes.

        Raises:
            EngineError: an engine died or did not answer in time.
        """
        homes = [self._book(name) for name in whose or [""] * len(requests)]
        shares = {index: [place for place, home in enumerate(homes) if home == index] for index in set(homes)}
        return merged(
            [
                self._stream(index, places, [requests[place] for place in places], sampling, stop_ids)
                for index, places in shares.items()
            ]
        )

    async def _stream(
        self,
        index: int,
        places: list[int],
        share: list[Request],
        sampling: SamplingConfig,
        stop_ids: list[int],
    ) -> AsyncIterator[list[Answered]]:
        """What one engine answers to its share, with the places that its requests have in the whole."""
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        left = len(places)
        try:
            replies = self.engines[index].generate_many.remote(share, sampling, stop_ids)
            while left:
                answers = await self._within_deadline(_next(replies), deadline)
                left -= len(answers)
                self._outstanding[index] -= len(answers)
                yield [(places[at], answer) for at, answer in answers]
        finally:
            self._outstanding[index] -= left

    def update_weights(
        self, parts: WeightPayload | Iterable[WeightPayload | ray.ObjectRef], timeout_s: float | None = None
    ) -> float:
        """Bring all engines to the weights whose parts are given, or lie with Ray already; blocks.

        Each part travels to the engines as soon as it is there; they stand still once all of them have the last.

        Returns:
            The longest time, in seconds, for which an engine stood still.

        Raises:
            WeightSyncError: an engine refused the weights, or they do not all report the same ones.
            EngineError: an engine died or was not done within `timeout_s` (that of a request, where it is None).
        """
        limit = timeout_s or self._timeout_s
        taken = []
        for part in [parts] if isinstance(parts, WeightPayload) else parts:
            reference = ray.put(part) if isinstance(part, WeightPayload) else part
            taken += [engine.take.remote(reference) for engine in self.engines]
        self._got(taken, "take", limit)
        return self._same(self._all("update", limit))

    def load(self, checkpoint: Path) -> float:
        """Bring all engines to a checkpoint of their own shape, which each reads itself; see `update_weights`.

        Raises:
            ModelError: there is no such checkpoint, or an engine's node does not see it.
        """
        fingerprint(checkpoint)
        return self._same(self._all("load", self._timeout_s, checkpoint.resolve(), max(self.versions()) + 1))

    def _same(self, reports: Sequence[dict[str, float]]) -> float:
        """Whether all engines report the same weights; returns their longest standstill, in seconds."""
        different = {(report["version"], report["checksum"]) for report in reports}
        if len(different) > 1:
            raise WeightSyncError(
                f"policy engines report different weights, of versions {sorted(v for v, _ in different)}; "
                "resume the run from its last checkpoint."
            )
        return max(report["seconds"] for report in reports)

    def sleep(self) -> None:
        """Let all engines leave their GPUs to others; see `TokenEngine.sleep`."""
        self._all("sleep", self._timeout_s)

    def wake(self) -> None:
        """Undo `sleep`."""
        self._all("wake", self._timeout_s)

    def versions(self) -> list[int]:
        """The version of each engine's weights."""
        return [report["version"] for report in self._all("version", self._timeout_s)]

    def metrics(self) -> dict[str, float]:
        """Counts and load of all engines, added up, and the greatest `kv_usage`; see `TokenEngine.metrics`."""
        counts = self._all("metrics", self._timeout_s)
        total = {name: sum(count[name] for count in counts) for name in counts[0]}
        return total | {"kv_usage": max(count["kv_usage"] for count in counts)}

    def close(self) -> None:
        """End all engines and their actors; an actor that is already dead is no fault."""
        if self._started:
            with contextlib.suppress(EngineError):
                self._all("close", 30.0)
        for engine in self.engines:
            ray.kill(engine)
        if self._reserved is not None:
            self._reserved.close()

    def _book(self, whose: str = "") -> int:
        """The engine for a request: where the last one of the episode went, unless that has far more to do."""
        engines, load = len(self.engines), self._outstanding
        first = zlib.crc32(whose.encode()) % engines  # else all actors would begin with the same engine
        least = min(range(engines), key=lambda index: (load[index], (index - first) % engines))
        home = self._homes.pop(whose, least)
        index = home if load[home] <= 2 * load[least] + SPILL else least
        if whose:
            self._homes[whose] = index
            if len(self._homes) > REMEMBERED:
                del self._homes[next(iter(self._homes))]
        load[index] += 1
        return index

    async def _within_deadline(self, call: Awaitable[T], deadline: float) -> T:
        # The engine has the same deadline; the margin lets its own error arrive.
        try:
            return await asyncio.wait_for(call, deadline + 10.0 - asyncio.get_running_loop().time())
        except (RayError, TimeoutError) as error:
            raise translated(error, f"in {self._timeout_s:g} s") from error

    def _all(self, method: str, timeout_s: float, *arguments: Any) -> list[Any]:
        """Call one method of every engine side by side, with one deadline for all."""
        return self._got([getattr(engine, method).remote(*arguments) for engine in self.engines], method, timeout_s)

    def _got(self, calls: list[Any], method: str, timeout_s: float) -> list[Any]:
        try:
            return ray.get(calls, timeout=timeout_s)
        except RayError as error:
            raise translated(error, f"to '{method}' in {timeout_s:g} s") from error


async def _next(replies: Any) -> Any:
    """The next item of a stream of Ray's, whose items are references."""
    return await (await anext(replies))


def translated(error: Exception, what: str) -> DreamgymError:
    """What went wrong in a call of engines: Ray's wrapping of an error taken off; the rest said in one sentence."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, DreamgymError):
        return error.cause
    if isinstance(error, GetTimeoutError | TimeoutError):
        return EngineError(f"a policy engine gave no answer {what}; raise policy.engine.timeout_s.")
    if isinstance(error, RayActorError):
        return EngineError("a policy engine died, most often for want of memory; lower policy.engine.kv_cache_gib.")
    return EngineError(f"a policy engine failed: {error}")
