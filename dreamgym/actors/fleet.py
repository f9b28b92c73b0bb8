"""The rollout fleet: actors under RLlib's fault-tolerant manager; an actor's death costs a replay, not the run."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.rllib.utils.actor_manager import FaultTolerantActorManager, RemoteCallResults

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.real_replay import RealReplay
from dreamgym.actors.rollout import ATTEMPTS, RolloutActor, WorldAddress
from dreamgym.config import RunConfig
from dreamgym.errors import DreamgymError, EngineError, EnvError
from dreamgym.inference.pool import PolicyPool
from dreamgym.schema import from_batch, to_batch
from dreamgym.telemetry.tracing import Event
from dreamgym.types import Trajectory

log = logging.getLogger(__name__)
T = TypeVar("T")
ROUNDS = 5
PING_S = 30.0
"""An actor that does not answer a ping within this long is given up."""
TOGETHER_S = 60.0
"""How long the first batch waits for all actors to start; later ones take whoever is there."""
NODES_S = 600.0
"""How long a cluster may take to make room for a first actor."""


@dataclass
class FleetCounts:
    """What happened to episodes since the start."""

    played: int = 0
    env_failed: int = 0
    retried: int = 0
    late: int = 0
    replayed: int = 0
    restarts: int = 0


@dataclass
class Batch:
    """Episodes under way; `tag` is their name with the actors' manager, `waves` how often an environment serves.

    `actors` are those that have them. `kept` holds, by id, those that need not be played; `retried` the ids of those
    that were played again, because their actor died or their world failed.
    """

    tag: str
    episodes: list[EpisodeSpec]
    kept: dict[str, Trajectory]
    retried: list[str] = field(default_factory=list)
    actors: set[int] = field(default_factory=set)
    waves: int = 1


class RolloutFleet:
    """`play(episodes)` answers with one trajectory an episode, whichever actors die on the way.

    `begin` and `finish` are its two halves: several batches may be under way, and each is finished by itself.

    Raises:
        DreamgymError, RayTaskError: see `_received`.
        EnvError: `train.max_failures` episodes in a row were env_failed (the circuit breaker).
        EngineError: no actor came back within `ROUNDS` rounds.
    """

    def __init__(
        self,
        config: RunConfig,
        tokenizer: str,
        policy: PolicyPool,
        world: WorldAddress | None,
        actors: int,
        check: Callable[[], None] = lambda: None,
        cpus: float = 0.0,
    ) -> None:
        """`check` raises where a part that episodes lean on has died: then it is not they that failed.

        `cpus` are asked for by each of `actors`: a cluster that has no room for them adds nodes, if it can.
        """
        self._config = config
        self._check = check
        self.counts = FleetCounts()
        self._failures_in_a_row = 0
        self._tags = itertools.count()
        self._under_way: dict[str, Batch] = {}
        remote = ray.remote(RolloutActor).options(num_cpus=cpus, max_restarts=-1, max_concurrency=1000)
        self._handles: list[ActorHandle] = [
            remote.remote(config, tokenizer, world, policy.names) for _ in range(actors)
        ]
        self._manager = FaultTolerantActorManager(self._handles, max_remote_requests_in_flight_per_actor=1)
        self._starting = {handle.ping.remote(): actor for actor, handle in enumerate(self._handles)}

    def play(self, episodes: Sequence[EpisodeSpec]) -> list[Trajectory]:
        """Play every episode; the result has their order. Blocks."""
        return self.finish(self.begin(episodes))

    def begin(self, episodes: Sequence[EpisodeSpec], kept: Iterable[Trajectory] = ()) -> Batch:
        """Send out the episodes that are not `kept` from before, group by group over the started actors; at once."""
        batch = Batch(str(next(self._tags)), list(episodes), {t.id: t for t in kept})
        self._under_way[batch.tag] = batch
        self._send(batch, [e for e in batch.episodes if e.id not in batch.kept])
        return batch

    def finish(self, batch: Batch) -> list[Trajectory]:
        """Wait for a batch; what an actor took with it is played again. The result has the order of its episodes."""
        try:
            return self._finished(batch)
        finally:
            self._under_way.pop(batch.tag, None)

    def _finished(self, batch: Batch) -> list[Trajectory]:
        done = dict(batch.kept)
        for attempt in range(ROUNDS):
            left = [e for e in batch.episodes if e.id not in done]
            if not left:
                break
            if attempt:
                self.counts.replayed += len(left)
                batch.retried += [e.id for e in left]
                log.warning(Event("played again: an actor died", trajectories=",".join(e.id for e in left)))
                self._revive()
                self._send(batch, left)
            for trajectory in self._received(batch):
                done[trajectory.id] = trajectory
        missing = [e.id for e in batch.episodes if e.id not in done]
        if missing:
            raise EngineError(
                f"{len(missing)} episodes found no living rollout actor in {ROUNDS} rounds; see the actors' logs."
            )
        fresh = [done[e.id] for e in batch.episodes if e.id not in batch.kept]
        batch.retried += [t.id for t in fresh if t.info["attempts"] > 1]
        self._watch(fresh)
        return [done[e.id] for e in batch.episodes]

    def metrics(self) -> dict[str, float]:
        """The counts, and how many actors are `healthy`."""
        return {**asdict(self.counts), "healthy": len(self._manager.healthy_actor_ids())}

    def abandon(self) -> None:
        """End whatever is being played; nobody will `finish` it."""
        self._under_way.clear()
        self._manager.foreach_actor("abandon", remote_actor_ids=self._awake(), timeout_seconds=10.0)

    def replay_for_real(self, dreams: Sequence[Trajectory]) -> list[RealReplay]:
        """What the actions of dreamed episodes come to in the real environment; without those of actors that die."""
        actors = self._awake()
        if not actors or not dreams:
            return []
        shares = _shares(dreams, len(actors))
        results = self._manager.foreach_actor(
            ["replay_for_real"] * len(shares),
            kwargs=[{"dreams": to_batch(share)} for share in shares],
            remote_actor_ids=actors[: len(shares)],
            timeout_seconds=self._config.train.episode_timeout_s * self._waves(len(shares[0])),
        )
        return [again for played in _answers(results) for again in played]

    def close(self) -> None:
        """Stop the actors and the environments that they hold."""
        self._manager.foreach_actor("close", remote_actor_ids=self._awake(), timeout_seconds=10.0)
        for handle in self._handles:
            ray.kill(handle)
        self._manager.clear()

    def _send(self, batch: Batch, episodes: Sequence[EpisodeSpec]) -> None:
        if not episodes:
            return
        actors = self._awake(first=True)
        if not actors:
            return
        shares = _shares(sorted(episodes, key=lambda e: e.group), len(actors))
        self._manager.foreach_actor_async(
            ["play_many"] * len(shares),
            tag=batch.tag,
            kwargs=[{"episodes": share} for share in shares],
            remote_actor_ids=actors[: len(shares)],
        )
        real = any(e.world == "real" for e in episodes)
        batch.waves = self._waves(len(shares[0])) if real else 1
        batch.actors = set(actors[: len(shares)])

    def _waves(self, episodes: int) -> int:
        """How many episodes a real environment of an actor plays one after the other."""
        return -(-episodes // self._config.env.workers)

    def _awake(self, first: bool = False) -> list[int]:
        """The healthy actors that have started; a `first` one is waited for, the others come when there is room."""
        nobody = len(self._starting) == len(self._handles)
        self._note_started(len(self._starting), TOGETHER_S if first and nobody else 0.0)
        if first and len(self._starting) == len(self._handles):
            self._note_started(1, NODES_S)
        return [actor for actor in self._manager.healthy_actor_ids() if actor not in self._starting.values()]

    def _note_started(self, actors: int, timeout_s: float) -> None:
        """Wait until so many of those that are starting have started."""
        if self._starting:
            started, _ = ray.wait(list(self._starting), num_returns=actors, timeout=timeout_s)
            self._starting = {ping: actor for ping, actor in self._starting.items() if ping not in started}

    def _received(self, batch: Batch) -> list[Trajectory]:
        """What the actors make of a batch that was sent; those that die send nothing.

        An actor that is not done in time is waited for as long as it answers: whatever its episodes do has a deadline,
        but for their wait for a place at the engines.

        Raises:
            DreamgymError: what an actor raised, such as an environment that cannot be built; it would do so again.
            RayTaskError: any other error of its code.
        """
        deadline = self._config.train.episode_timeout_s * ATTEMPTS * batch.waves + 60.0
        played: list[Trajectory] = []
        while batch.actors:
            results = self._manager.fetch_ready_async_reqs(tags=batch.tag, timeout_seconds=deadline)
            batch.actors -= {result.actor_id for result in results}
            self._forget_the_dead()
            played += [t for answer in _answers(results) for t in from_batch(answer)]
            batch.actors = self._answering(batch.actors)
        return played

    def _forget_the_dead(self) -> None:
        """The manager drops every request to an actor that it finds dead, also those of other batches."""
        healthy = set(self._manager.healthy_actor_ids())
        for batch in self._under_way.values():
            batch.actors &= healthy

    def _answering(self, actors: set[int]) -> set[int]:
        """Those of some actors that answer a ping."""
        pings = {self._handles[actor].ping.remote(): actor for actor in actors}
        ended, _ = ray.wait(list(pings), num_returns=len(pings), timeout=PING_S) if pings else ([], [])
        found = set()
        for ping in ended:
            with suppress(RayError):
                ray.get(ping)
                found.add(pings[ping])
        return found

    def _revive(self) -> None:
        """Ping dead actors until one answers, so that Ray Core has the time to restart them."""
        self._forget_the_dead()
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            restored = self._manager.probe_unhealthy_actors(timeout_seconds=20.0, mark_healthy=True)
            self.counts.restarts += len(restored)
            if self._manager.healthy_actor_ids():
                return
            time.sleep(0.5)

    def _watch(self, trajectories: Sequence[Trajectory]) -> None:
        if any(t.status != "ok" for t in trajectories):
            self._check()
        for t in trajectories:
            self.counts.played += 1
            failed = t.status != "ok"
            self.counts.env_failed += failed
            self.counts.retried += int(t.info.get("attempts", 1)) - 1
            self.counts.late += int(t.info.get("late", 0))
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
            if self._failures_in_a_row >= self._config.train.max_failures:
                raise EnvError(
                    f"{self._failures_in_a_row} episodes in a row failed, the last with: {t.error}; "
                    "mend that, or raise train.max_failures."
                )


def _shares(items: Sequence[T], actors: int) -> list[Sequence[T]]:
    """The items in their order, for at most so many actors; none has more than the first."""
    size = -(-len(items) // actors)
    return [items[at : at + size] for at in range(0, len(items), size)]


def _answers(results: RemoteCallResults) -> Iterator[Any]:
    """What actors answered; one that died, or lost what it needs, answers nothing, and one that raised raises here."""
    for result in results:
        answer = result.get()
        if result.ok:
            yield answer
        elif isinstance(answer, RayTaskError) and not isinstance(answer.cause, RayError):
            if isinstance(answer.cause, DreamgymError):
                raise answer.cause from answer
            raise answer
