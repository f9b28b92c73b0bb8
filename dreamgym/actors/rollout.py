"""A rollout actor: many episodes side by side on one event loop, alternating policy calls and world calls."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from dreamgym.actors.episode import EpisodeSpec, play
from dreamgym.actors.real_replay import RealReplay, replay_for_real
from dreamgym.config import RunConfig, SamplingConfig
from dreamgym.envs.base import Environment, RealEnvironment, env_tools, line_rule, success_above
from dreamgym.errors import EngineError
from dreamgym.inference.batching import Coalescer
from dreamgym.inference.concurrency import ConcurrencyLimit
from dreamgym.inference.engine import Generation
from dreamgym.inference.engine_args import CPU_SEATS
from dreamgym.inference.pool import Answered, PolicyPool
from dreamgym.models.chat import load_chat
from dreamgym.schema import from_batch, to_batch
from dreamgym.serve.dream import DreamEnvironment, Memo, WorldClient
from dreamgym.telemetry.tracing import Event, log_to_session
from dreamgym.types import Trajectory, stable_id

log = logging.getLogger(__name__)
ATTEMPTS = 2
Turn = tuple[list[int], int, str]
"""Prompt ids, the turn's seed, and the id of its episode."""


@dataclass(frozen=True, slots=True)
class WorldAddress:
    """Where the dream is served: a Serve application and its deployment."""

    app: str
    deployment: str


class RolloutActor:
    """Plays episodes for the fleet; made to live under RLlib's `FaultTolerantActorManager` (`apply`, `ping`)."""

    def __init__(self, config: RunConfig, tokenizer: str, world: WorldAddress | None, engines: Sequence[str]) -> None:
        """`engines` are the names of those of a `PolicyPool`: Ray keeps no handle for an actor that it starts anew."""
        log_to_session(config.log_level)
        self._config = config
        self._chat = load_chat(tokenizer, forks=True, tools=env_tools(config.env.name))
        self._line = line_rule(config.env.name)
        self._policy = PolicyPool.named(engines, config.policy.engine.timeout_s)
        self._seats = config.policy.engine.max_num_seqs or CPU_SEATS
        self._limit = ConcurrencyLimit(self._seats * len(engines))
        self._clients: dict[float, Coalescer[Turn, Generation | EngineError]] = {}
        self._world_address = world
        self._world: WorldClient | None = None
        self._real: asyncio.Queue[RealEnvironment] | None = None
        self._playing: set[asyncio.Task[list[Trajectory]]] = set()

    def ping(self) -> str:
        """Answer a health check."""
        return "pong"

    async def apply(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run `func(self, …)`, the way in that `FaultTolerantActorManager` uses."""
        result = func(self, *args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def play_many(self, episodes: Sequence[EpisodeSpec]) -> pa.RecordBatch:
        """Play episodes concurrently; a record batch of `TRAJECTORY_SCHEMA` in their order, empty if abandoned."""
        memo: Memo = {}
        task = asyncio.create_task(_all(self._play(e, memo) for e in episodes))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)
        await asyncio.wait([task])
        return to_batch([] if task.cancelled() else task.result())

    async def abandon(self) -> None:
        """Cancel whatever is being played."""
        for task in self._playing:
            task.cancel()

    async def replay_for_real(self, dreams: pa.RecordBatch) -> list[RealReplay]:
        """The actions of dreamed episodes in the real environment, in their order."""

        async def one(dream: Trajectory) -> RealReplay:
            async with self._real_environment() as env:
                return await replay_for_real(dream, env)

        return await asyncio.gather(*(one(dream) for dream in from_batch(dreams)))

    async def close(self) -> None:
        """Close the real environments."""
        if self._real is not None:
            while not self._real.empty():
                await self._real.get_nowait().close()
            self._real = None

    async def _play(self, episode: EpisodeSpec, memo: Memo) -> Trajectory:
        """Up to `ATTEMPTS` tries in fresh environments, each with a deadline; the last failure is what is kept."""
        late, taken = 0.0, 0
        for attempt in range(ATTEMPTS):
            trajectory, steps = await self._attempt(episode, attempt, memo)
            late += trajectory.info.get("late", 0.0)
            taken += steps
            if trajectory.status == "ok":
                break
            what = "env_failed" if attempt + 1 == ATTEMPTS else "retry"
            told = {"world": episode.world, "step": len(trajectory.steps), "reason": trajectory.error}
            log.warning(Event(what, trajectory=episode.id, attempt=attempt, **told))
        trajectory.info |= {"attempts": float(attempt + 1), "late": late}
        if taken:
            trajectory.info["lost"] = float(taken - len(trajectory.steps))
        won = {"steps": len(trajectory.steps), "success": trajectory.success}
        log.info(Event("episode", trajectory=episode.id, task=episode.task.id, status=trajectory.status, **won))
        return trajectory

    async def _attempt(self, episode: EpisodeSpec, attempt: int, memo: Memo) -> tuple[Trajectory, int]:
        """What came of it, and the real transitions that it took."""
        async with self._environment(episode, attempt, memo) as env:
            trajectory = await self._tried(episode, env)
            return trajectory, env.steps if isinstance(env, RealEnvironment) else 0

    async def _tried(self, episode: EpisodeSpec, env: Environment) -> Trajectory:
        limit = self._config.train.episode_timeout_s
        try:
            async with asyncio.timeout(limit) as deadline:
                act = partial(self._act, episode, deadline)
                return await play(episode, env, act, self._chat, self._config.policy, self._line)
        except TimeoutError:
            lost = _lost(episode, f"no end within train.episode_timeout_s={limit:g} s")
            lost.info["late"] = 1.0
            return lost
        except EngineError as error:
            return _lost(episode, str(error))

    async def _act(self, episode: EpisodeSpec, deadline: asyncio.Timeout, prompt: list[int], seed: int) -> Generation:
        """One policy turn, when the engines have room; the turns that wait together travel in one remote call."""
        temperature, policy = episode.temperature, self._config.policy
        if temperature not in self._clients:
            sampling = SamplingConfig(**{**policy.sampling.model_dump(), "temperature": temperature})
            self._clients[temperature] = Coalescer(
                partial(self._send, sampling), limit=self._seats, timeout_s=policy.engine.timeout_s
            )
        async with self._limit.place(deadline):
            answer = await self._clients[temperature]((prompt, seed, episode.id))
            if isinstance(answer, EngineError):
                raise answer
            self._limit.told(answer.load)
        return answer

    def _send(self, sampling: SamplingConfig, turns: Sequence[Turn]) -> AsyncIterator[Sequence[Answered]]:
        requests, whose = [(prompt, seed) for prompt, seed, _ in turns], [name for _, _, name in turns]
        return self._policy.generate_many(requests, sampling=sampling, stop_ids=self._chat.stop_ids, whose=whose)

    @asynccontextmanager
    async def _environment(self, episode: EpisodeSpec, attempt: int, memo: Memo) -> AsyncIterator[Environment]:
        if episode.world == "dream":
            whose = (episode.group, episode.iteration) if self._config.world.memo else (episode.id,)
            seed = int(stable_id(self._config.seed, *whose, attempt), 16) & 0x7FFFFFFF
            real, votes = self._config.env, self._config.world.votes
            yield DreamEnvironment(
                self._dream(), real.max_steps, seed, memo, episode.id, votes, success_above(real), episode.before
            )
            return
        async with self._real_environment() as env:
            yield env

    @asynccontextmanager
    async def _real_environment(self) -> AsyncIterator[Environment]:
        free = self._real_environments()
        env = await free.get()
        try:
            yield env
        finally:
            free.put_nowait(env)

    def _dream(self) -> WorldClient:
        if self._world is None:
            if self._world_address is None:
                raise RuntimeError("this rollout actor was started without a dream; it plays real episodes only")
            from ray import serve

            handle = serve.get_deployment_handle(self._world_address.deployment, app_name=self._world_address.app)
            self._world = WorldClient(handle, self._config.world)
        return self._world

    def _real_environments(self) -> asyncio.Queue[RealEnvironment]:
        if self._real is None:
            self._real = asyncio.Queue()
            for _ in range(self._config.env.workers):
                self._real.put_nowait(RealEnvironment(self._config.env))
        return self._real


async def _all(plays: Iterable[Awaitable[Trajectory]]) -> list[Trajectory]:
    return await asyncio.gather(*plays)


def _lost(episode: EpisodeSpec, why: str) -> Trajectory:
    lost = episode.trajectory()
    lost.status = "env_failed"
    lost.error = why
    return lost
