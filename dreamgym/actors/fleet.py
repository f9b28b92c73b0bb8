"""The rollout fleet: actors under RLlib's fault-tolerant manager; an actor's death costs a replay, not the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from dreamgym.actors.again import Again
from dreamgym.actors.episode import Episode
from dreamgym.actors.rollout import ATTEMPTS, RolloutActor, WorldAddress
from dreamgym.config import RunConfig
from dreamgym.errors import EngineError, EnvError
from dreamgym.policy.engine import PolicyPool
from dreamgym.schema import from_batch, to_batch
from dreamgym.types import Trajectory

log = logging.getLogger(__name__)
ROUNDS = 5


@dataclass
class FleetCounts:
    """What happened to episodes since the start."""

    played: int = 0
    env_failed: int = 0
    replayed: int = 0
    restarts: int = 0


class RolloutFleet:
    """`play(episodes)` answers with one trajectory an episode, whichever actors die on the way.

    Raises:
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
    ) -> None:
        self._config = config
        self.counts = FleetCounts()
        self._failures_in_a_row = 0
        remote = ray.remote(RolloutActor).options(num_cpus=0, max_restarts=-1, max_concurrency=1000)
        self._handles: list[ActorHandle] = [remote.remote(config, tokenizer, policy, world) for _ in range(actors)]
        self._manager = FaultTolerantActorManager(self._handles, max_remote_requests_in_flight_per_actor=1)

    def play(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """Play every episode; the result has their order. Blocks."""
        done: dict[str, Trajectory] = {}
        for attempt in range(ROUNDS):
            left = [e for e in episodes if e.id not in done]
            if not left:
                break
            if attempt:
                self.counts.replayed += len(left)
                self._revive()
            for trajectory in self._round(left):
                done[trajectory.id] = trajectory
        missing = [e.id for e in episodes if e.id not in done]
        if missing:
            raise EngineError(
                f"{len(missing)} episodes found no living rollout actor in {ROUNDS} rounds; see the actors' logs."
            )
        played = [done[e.id] for e in episodes]
        self._watch(played)
        return played

    def play_again(self, dreams: Sequence[Trajectory]) -> list[Again]:
        """What the actions of dreamed episodes come to in the real environment; empty where no actor answers."""
        results = self._manager.foreach_actor(
            "play_again",
            kwargs={"dreams": to_batch(dreams)},
            remote_actor_ids=self._manager.healthy_actor_ids()[:1],
            timeout_seconds=self._config.train.episode_timeout_s,
        )
        return [again for result in results if result.ok for again in result.get()]

    def close(self) -> None:
        """Stop the actors and the environments that they hold."""
        self._manager.foreach_actor("close", timeout_seconds=10.0)
        for handle in self._handles:
            ray.kill(handle)
        self._manager.clear()

    def _round(self, episodes: Sequence[Episode]) -> list[Trajectory]:
        """Share episodes out group by group over the healthy actors and wait for what comes back."""
        actors = self._manager.healthy_actor_ids()
        if not actors:
            return []
        order = sorted(range(len(episodes)), key=lambda i: (episodes[i].group, i))
        size = -(-len(order) // len(actors))
        shares = [[episodes[i] for i in order[k : k + size]] for k in range(0, len(order), size)]
        self._manager.foreach_actor_async(
            ["play_many"] * len(shares),
            kwargs=[{"episodes": share} for share in shares],
            remote_actor_ids=actors[: len(shares)],
        )
        real = any(e.world == "real" for e in episodes)
        waves = -(-size // self._config.env.workers) if real else 1
        deadline = self._config.train.episode_timeout_s * ATTEMPTS * waves + 60.0
        results = self._manager.fetch_ready_async_reqs(timeout_seconds=deadline)
        return [t for result in results if result.ok for t in from_batch(result.get())]

    def _revive(self) -> None:
        """Ping dead actors until one answers, so that Ray Core has the time to restart them."""
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            restored = self._manager.probe_unhealthy_actors(timeout_seconds=20.0, mark_healthy=True)
            self.counts.restarts += len(restored)
            if self._manager.healthy_actor_ids():
                return
            time.sleep(0.5)

    def _watch(self, trajectories: Sequence[Trajectory]) -> None:
        for t in trajectories:
            self.counts.played += 1
            failed = t.status != "ok"
            self.counts.env_failed += failed
            self._failures_in_a_row = self._failures_in_a_row + 1 if failed else 0
            if self._failures_in_a_row >= self._config.train.max_failures:
                raise EnvError(
                    f"{self._failures_in_a_row} episodes in a row failed, the last with: {t.error}; "
                    "mend that, or raise train.max_failures."
                )
