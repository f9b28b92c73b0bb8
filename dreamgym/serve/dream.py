"""The dream as an environment: the experience model behind the protocol that real environments implement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException

from dreamgym.config import WorldConfig
from dreamgym.errors import DataError, EngineError
from dreamgym.inference.batching import Coalescer
from dreamgym.inference.concurrency import ConcurrencyLimit
from dreamgym.inference.engine_args import CPU_SEATS
from dreamgym.serve.experience import DreamAnswer, DreamQuery, WriteQuery
from dreamgym.types import StepResult, Task, Transition, stable_id

Memo = dict[tuple[int, tuple[str, ...]], "asyncio.Future[DreamAnswer]"]
"""(seed, task and actions so far) -> the dream step that is done or under way."""


class World(Protocol):
    """Whoever dreams a step: replicas behind `WorldClient`, or a model in this process."""

    async def step(self, query: DreamQuery) -> DreamAnswer: ...


class ReplicaDiedError(EngineError):
    """A replica died, or was ended, before it had answered."""


class WorldClient:
    """What actors hold of the experience model: calls are joined, sent to a Serve replica, and have a deadline.

    Raises (from every call):
        EngineError: no replica answered in time, or the replica failed.
    """

    def __init__(self, handle: Any, config: WorldConfig, limit: int = 64) -> None:
        """`handle` is that of the deployment of the experience model."""
        self._handle = handle
        streaming = handle.options(stream=True)
        self._timeout_s = timeout_s = config.engine.timeout_s
        self._checked = config.outcome == "checker"
        self._limit = ConcurrencyLimit((config.engine.max_num_seqs or CPU_SEATS) * config.replicas)
        self._steps: Coalescer[DreamQuery, DreamAnswer] = Coalescer(
            streaming.step_many.remote, limit=limit, timeout_s=timeout_s
        )
        self._texts: Coalescer[WriteQuery, str] = Coalescer(
            streaming.write_many.remote, limit=limit, timeout_s=timeout_s
        )

    async def step(self, query: DreamQuery) -> DreamAnswer:
        """Dream one step, when the replicas have room for it."""
        async with self._limit:
            answer = await self._step(query if self._checked else replace(query, history=()))
            self._limit.told(answer.load)
        return answer

    async def _step(self, query: DreamQuery) -> DreamAnswer:
        """One step; where its replica dies meanwhile, by another: a step is the same whoever dreams it."""
        what = "a dream step"
        try:
            first: DreamAnswer = await self._guarded(self._steps(query), what)
        except ReplicaDiedError:
            second: DreamAnswer = await self._guarded(self._steps(query), what)
            return second
        return first

    async def write(self, query: WriteQuery) -> str:
        """Let the model write a text; empty where its answer was malformed."""
        return await self._guarded(self._texts(query), "a text")

    async def metrics(self) -> dict[str, float]:
        """Counts of one replica."""
        return await self._guarded(self._handle.metrics.remote(), "metrics")

    async def seats(self) -> int:
        """Sequences that a replica's engine decodes at once."""
        return int(await self._guarded(self._handle.seats.remote(), "seats"))

    async def sleep(self) -> None:
        """Let the only replica leave its GPU to others; see `TokenEngine.sleep`."""
        await self._guarded(self._handle.sleep.remote(), "sleep")

    async def wake(self) -> None:
        """Undo `sleep`."""
        await self._guarded(self._handle.wake.remote(), "wake")

    async def _guarded(self, call: Any, what: str) -> Any:
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError as error:
            raise EngineError(
                f"the experience model gave no answer to {what} in {self._timeout_s:g} s; "
                "raise world.engine.timeout_s or world.replicas."
            ) from error
        except (RayError, RayServeException) as error:
            kind = ReplicaDiedError if isinstance(error, RayActorError) else EngineError
            raise kind(f"the experience model failed at {what}: {str(error).strip().splitlines()[-1]}") from error


class DreamEnvironment:
    """One dreamed episode at a time; `reset` needs a task whose first state is known.

    A step that cannot be parsed, or a replica that fails, is `env_failed`, never a reward of 0. A context
    that is full truncates the episode, without a step.

    With a `memo` shared by the episodes of a group (which then have one seed), the same actions from the same
    start lead to the same states, and what episodes have in common is dreamed once, also while it is under way.
    `trajectory` is the id under which the dream's replicas log the steps. A step that says the task is solved is
    asked `votes` times more (see `majority`). With steps `before`, the episode goes on where these led to, and they
    count as steps. With `tell`, `info` says of each answer what demonstrations it was `shown`, and whether it was
    `overruled`.
    """

    def __init__(
        self,
        world: World,
        max_steps: int,
        seed: int,
        memo: Memo | None = None,
        trajectory: str = "",
        votes: int = 0,
        success_above: float = 0.0,
        before: Sequence[Transition] = (),
        tell: bool = False,
    ) -> None:
        self._world = world
        self._max_steps = max_steps
        self._seed = seed
        self._trajectory = trajectory
        self._votes = votes
        self._success_above = success_above
        self._before = tuple(before)
        self._tell = tell
        self._memo: Memo = {} if memo is None else memo
        self._actions: tuple[str, ...] = ()
        self._skipped = 0
        self._query: DreamQuery | None = None

    async def reset(self, task: Task) -> StepResult:
        self._actions, self._skipped = (task.id, *(step.action for step in self._before)), 0
        if not task.first_state:
            raise DataError(f"task {task.id} has no first state; a dream can begin only where one is known.")
        last = self._before[-1] if self._before else None
        state = task.first_state if last is None else last.state if last.malformed else last.next_state
        self._query = DreamQuery(
            task, [], state, "", self._seed, trajectory=self._trajectory, before=self._before, history=self._before
        )
        return StepResult(state)

    async def step(self, action: str) -> StepResult:
        if self._query is None:
            raise RuntimeError("step() before reset(); call reset(task) first")
        self._actions += (action,)
        seed = int(stable_id(self._seed, *self._actions), 16) & 0x7FFFFFFF
        query = replace(self._query, action=action, seed=seed)
        key = (self._seed, self._actions)
        first = key not in self._memo
        if first:
            self._memo[key] = asyncio.ensure_future(self._dreamed(query))
        try:
            answer = await asyncio.shield(self._memo[key])
        except EngineError as error:
            return _failed(str(error))
        if answer.context_full:
            return StepResult(query.state, truncated=True, info={"context_full": True})
        told = {"shown": answer.demos, "overruled": answer.overruled} if self._tell else {}
        if answer.error:
            return _failed(answer.error, **told)
        history = (*query.history, query.then(answer))
        self._query = replace(query, transcript=answer.transcript, state=answer.state, before=(), history=history)
        truncated = not answer.done and self._late
        info = {
            "reasoning": answer.reasoning,
            "demos": len(answer.demos),
            "success": answer.solved(self._success_above),
        } | told
        if first:
            info |= {"dreamed": 1, "read": answer.read, "cached": answer.cached, "written": answer.written}
            info |= {"overruled": answer.overruled} if self._votes else {}
        return StepResult(answer.state, answer.reward, answer.done, truncated, info=info)

    async def skip(self) -> StepResult:
        """Let a step pass; the experience model is not asked."""
        if self._query is None:
            raise RuntimeError("skip() before reset(); call reset(task) first")
        self._skipped += 1
        return StepResult(self._query.state, truncated=self._late)

    @property
    def _late(self) -> bool:
        """Whether as many steps are over as an episode may have; the first of `_actions` is the task."""
        return len(self._actions) + self._skipped > self._max_steps

    async def close(self) -> None:
        self._query = None

    async def _dreamed(self, query: DreamQuery) -> DreamAnswer:
        """One step; where it solves the task, what the majority of this and of further answers says."""
        answer = await self._world.step(query)
        if not self._votes or not answer.solved(self._success_above):
            return answer
        ballots = [
            replace(query, seed=int(stable_id(query.seed, "vote", n), 16) & 0x7FFFFFFF, skip_demos=n)
            for n in range(1, self._votes + 1)
        ]
        further = await asyncio.gather(*(self._world.step(ballot) for ballot in ballots))
        return majority([answer, *further], self._success_above)


def majority(answers: Sequence[DreamAnswer], success_above: float) -> DreamAnswer:
    """What several answers to one step come to; the first of them solves the task.

    It stands where more than half of those that can be read say so too; else the first that says otherwise does. The
    tokens are those of all.
    """
    readable = [a for a in answers if not a.error and not a.context_full]
    against = [a for a in readable if not a.solved(success_above)]
    overruled = 2 * len(against) >= len(readable)
    return replace(
        against[0] if overruled else answers[0],
        read=sum(a.read for a in answers),
        cached=sum(a.cached for a in answers),
        written=sum(a.written for a in answers),
        overruled=overruled,
    )


def _failed(why: str, **told: Any) -> StepResult:
    return StepResult("", status="env_failed", info={"error": why} | told)
