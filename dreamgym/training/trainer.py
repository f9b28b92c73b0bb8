"""The training loop: reads like the algorithm of the paper, top to bottom.

tasks ──► rollouts in the dream ──► Arrow ──► GRPO on the learner ──► new weights to the engines
  ▲             │         ▲                          (beside it)
  │             ▼         │ demos            new tasks are invented, dreamed
  └── V_tau, lambda    replay buffer ◄────── transitions pass the write gate
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dreamgym.actors.real_replay import real_replay_scores
from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.curriculum.progress import Progress
from dreamgym.errors import DataError
from dreamgym.inference.engine import LOAD
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.batches import rl_batch
from dreamgym.models.chat import load_chat
from dreamgym.runs.folder import write_json
from dreamgym.runs.ledger import Ledger
from dreamgym.runs.log import RunLog, read_log
from dreamgym.runs.remote_checkpoints import RemoteCheckpoints
from dreamgym.runtime import event_loop
from dreamgym.telemetry.clock import Clock
from dreamgym.telemetry.console import Bar
from dreamgym.telemetry.metrics import Sink
from dreamgym.training.checkpoints import checkpoints, state_of
from dreamgym.training.enrichment import Enrichment
from dreamgym.training.evaluation import Measured, begun, evaluate_policy
from dreamgym.training.fidelity import named, predict
from dreamgym.training.guard import stop_reason
from dreamgym.training.rollout_metrics import rollout_metrics
from dreamgym.training.rollout_queue import RolloutQueue
from dreamgym.training.services import Services
from dreamgym.training.world_refresh import WorldRefresh
from dreamgym.types import Task, Trajectory, World

log = logging.getLogger(__name__)
FIDELITY_EPISODES = 24


class Trainer:
    """One policy in training; `run` goes from its last checkpoint, or from where it begins, to the end.

    It begins with the warm start, or where the run of the folder `after` ended: the learner (without momentum), the
    values of the tasks and the count of iterations go on. In the real environment it ends where `real.transitions`
    leave no room for another group. What is won in `seed_data` is how far episodes come is measured by. A batch of
    `usual_groups` groups (by default `train.groups`) makes `learner.minibatches` steps, and a smaller one fewer.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        services: Services,
        tasks: Sequence[Task],
        dev_tasks: Sequence[Task],
        heldout: Sequence[Trajectory],
        after: Path | None = None,
        sinks: Sequence[Sink] = (),
        remote: RemoteCheckpoints | None = None,
        seed_data: Sequence[Trajectory] = (),
        world_refresh: WorldRefresh | None = None,
        usual_groups: int = 0,
    ) -> None:
        self.config = config
        self.folder = folder
        self.services = services
        self.curriculum = Curriculum(tasks, config.curriculum, config.seed)
        self.clock = Clock()
        self.real_measured = 0
        self.learned = {"dream": 0, "real": 0}
        self.tokens = 0
        self.max_gap = 0.0
        self.ended_early = ""
        self._dev_tasks = list(dev_tasks)
        self._heldout = list(heldout)
        self._progress = Progress(seed_data)
        self._world_chat = load_chat(config.run_dir / "world")
        self._log = RunLog(folder / "metrics.jsonl")
        self._sinks = [self._log, *sinks]
        self._ledger = Ledger(folder)
        assert services.fleet is not None
        self._queue = RolloutQueue(config, services.fleet, self._ledger, self.curriculum)
        self._enrichment = Enrichment(config, services, self.curriculum)
        self._world: World = config.train.world
        self._budget = config.real.transitions if self._world == "real" else 0
        self._after = after
        self._remote = remote
        self._world_refresh = world_refresh
        self._usual_groups = usual_groups or config.train.groups
        self._dreams: list[Trajectory] = []
        self._versions: list[int] = []

    def run(self, bar: Bar) -> int:
        """Train to the end, from where the folder's newest checkpoint is; returns the number of the last iteration."""
        first = self._resume()
        if first == 0:
            self._evaluate(0)
        iteration = first
        last = self._untrue() or not self._queue.more(first, self.learned["real"])
        with ThreadPoolExecutor(1) as beside:
            while not last:
                metrics = self._iterate(iteration, beside)
                iteration += 1
                self._record("iteration", iteration, metrics)
                done = self.learned["real"] if self._budget else iteration
                bar.reach(done, f"{self._world} {metrics['dream/success']:.0%}")
                minutes = self.clock.total / 60
                late = 0 < self.config.train.minutes <= minutes
                last = late or not self._queue.more(iteration, self.learned["real"])
                if last:
                    self._queue.abandon(iteration)
                every = self.config.train.eval_every
                if every and (iteration % every == 0 or last):
                    self._evaluate(iteration)
                    if not last and self._untrue():
                        last = True
                        self._queue.abandon(iteration)
                if last or iteration % self.config.train.checkpoint_every == 0:
                    self._checkpoint(iteration)
        self._log.close()
        self._ledger.close()
        return iteration

    def _untrue(self) -> bool:
        """Whether the evaluations so far say to end early; `ended_early` then says why."""
        if self.config.train.min_kept:
            self.ended_early = stop_reason(read_log(self._log.path), self.config.train)
        return bool(self.ended_early)

    # One iteration -----------------------------------------------------------------------------

    def _iterate(self, iteration: int, beside: ThreadPoolExecutor) -> dict[str, Any]:
        before = time.monotonic()
        with self.clock("rollout"):
            trajectories = self._queue.next(iteration, self.learned["real"])
        self._dreams = [t for t in trajectories if t.world == "dream" and t.task.origin == "real" and t.status == "ok"]
        metrics = rollout_metrics(trajectories, time.monotonic() - before, self._versions)
        if self._world == "real":
            self.real_measured += sum(t.lost + (len(t.steps) if t.status != "ok" else 0) for t in trajectories)
        self.tokens += int(metrics["rollout/tokens"] + metrics.get("rollout/dream_computed", 0))
        metrics |= self._value_tasks(trajectories, iteration)
        refreshed = beside.submit(self._enrichment.run, trajectories, iteration)
        if self.config.train.colocate:
            refreshed.result()  # it asks the engines, which are to sleep
        metrics |= self._learn(trajectories, iteration)
        self._ledger.write("trained", iteration, (t.id for t in trajectories))
        with self.clock("curriculum and replay"):
            metrics |= refreshed.result()
        if self._world_refresh is not None and self._world_refresh.due(iteration + 1):
            with self.clock("refresh of the dream"):
                metrics |= self._world_refresh.run(iteration + 1, self.services, self.curriculum.task)
            self.tokens += int(metrics.get("refresh/tokens", 0))
        return metrics | self._accounts()

    def _accounts(self) -> dict[str, Any]:
        """What the fleet has counted, and where the loop's time went, since the start."""
        assert self.services.fleet is not None
        fleet = {f"fleet/{name}": count for name, count in self.services.fleet.metrics().items()}
        return fleet | {f"time/{part.replace(' ', '_')}": seconds for part, seconds in self.clock.parts().items()}

    def _record(self, kind: str, iteration: int, metrics: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(kind, iteration, metrics)

    def _value_tasks(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        tasks = {t.group: t.task for t in trajectories}
        ok = {task_id: [t for t in trajectories if t.group == task_id and t.status == "ok"] for task_id in tasks}
        rewards = {task_id: [t.total_reward for t in group] for task_id, group in ok.items()}
        progress = {task_id: [self._progress.of(t) for t in group] for task_id, group in ok.items()}
        clusters = self.curriculum.clusters(rewards, self._enrichment.embed)
        values = [self.curriculum.record(task_id, r, iteration, progress[task_id]) for task_id, r in clusters.items()]
        generated = sum(task.origin == "generated" for task in tasks.values())
        return {
            "curriculum/progress": statistics.fmean(p for group in progress.values() for p in group or [0.0]),
            "curriculum/value_mean": sum(values) / max(len(values), 1),
            "curriculum/generated_share": generated / max(len(tasks), 1),
            "curriculum/flat_groups": sum(value == 0 for value in values) / max(len(values), 1),
        }

    def _learn(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """Advantages, an update, and the new weights in every engine."""
        settings = self.config.learner
        share = min(1.0, len({t.group for t in trajectories}) / self._usual_groups)
        batch, left_out = rl_batch(trajectories, resolve(settings), settings.bootstrap_truncated)
        transitions = sum(len(t.steps) for t in trajectories if t.status == "ok")
        self.learned[self._world] += transitions
        learned = {f"learner/{w}_transitions": transitions * (w == self._world) for w in ("dream", "real")}
        learned["learner/groups_left_out"] = left_out
        if batch.num_rows == 0:
            return {**learned, "learner/skipped": 1}
        learner, policy = self.services.learner, self.services.policy
        assert learner is not None and policy is not None
        with self.clock("learner"), self.services.engines_asleep():
            metrics = {f"learner/{name}": value for name, value in learner.rl_step(batch, share).items()}
        self.max_gap = max(self.max_gap, metrics["learner/gap_mean"])
        began = time.monotonic()
        with self.clock("weight transfer"):
            stood_still = self._send_weights(iteration + 1)
        sync = {"sync/seconds": time.monotonic() - began, "sync/standstill_seconds": stood_still}
        return learned | metrics | sync | {"learner/rows": batch.num_rows}

    def _send_weights(self, version: int) -> float:
        """Bring the engines to the learner's weights; returns the longest standstill of one, in seconds."""
        learner, policy = self.services.learner, self.services.policy
        assert learner is not None and policy is not None
        self._versions.append(version)
        if learner.direct:
            return learner.send(version)
        return policy.update_weights(learner.weights(version, pack_weights))

    # Measuring ---------------------------------------------------------------------------------

    def _evaluate(self, iteration: int) -> None:
        """The real dev fold, the same games in the dream, and the dream's fidelity; nothing is learned from them."""
        if not self.config.train.eval_every:
            return
        worlds: list[World] = ["real"] if self.services.dream is None else ["real", "dream"]
        with self.clock("evaluation"):
            real, *dreamed = self._play_dev(worlds, iteration)
            metrics = {f"real/{key}": value for key, value in real.numbers().items()}
            self.real_measured += real.steps
            if dreamed:
                metrics |= {f"dream/dev_{key}": value for key, value in dreamed[0].numbers().items()}
                with ThreadPoolExecutor(1) as beside:
                    fidelity = beside.submit(self._fidelity, real.ok[:FIDELITY_EPISODES], iteration)
                    metrics |= self._replay_for_real() | fidelity.result()
            metrics["real/transitions"] = self.real_measured
            metrics |= _counts("policy", self.services.policy.metrics())  # type: ignore[union-attr]
        self._record("eval", iteration, metrics)

    def _play_dev(self, worlds: Sequence[World], iteration: int) -> list[Measured]:
        """All worlds side by side, but for the first time the real one alone where it alone knows how a game begins."""
        config, fleet = self.config, self.services.fleet
        if "dream" in worlds and not all(task.first_state for task in self._dev_tasks):
            (real,) = evaluate_policy(config, fleet, self._dev_tasks, "dev", ["real"], iteration)
            self._dev_tasks = begun(self._dev_tasks, real)
            return [real, *evaluate_policy(config, fleet, self._dev_tasks, "dev", ["dream"], iteration)]
        return evaluate_policy(config, fleet, self._dev_tasks, "dev", worlds, iteration)

    def _fidelity(self, own: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """What the dream says along the policy's own real episodes and, at first, along held-out ones."""
        assert self.services.dream is not None
        heldout = self._heldout[: 2 * FIDELITY_EPISODES] if iteration == 0 else []
        return event_loop.run(self._along([*own], heldout))

    async def _along(self, own: list[Trajectory], heldout: list[Trajectory]) -> dict[str, Any]:
        assert self.services.dream is not None
        world = self.services.dream.world
        mine, told = await asyncio.gather(
            *(predict(episodes, world, self._world_chat, self.config.seed) for episodes in (own, heldout))
        )
        metrics: dict[str, Any] = named(mine, "policy")
        if heldout:
            metrics |= named(told, "heldout") | named([p for p in told if not p.real.valid], "invalid")
        return metrics | _counts("world", await world.metrics())

    def _replay_for_real(self) -> dict[str, Any]:
        """The dreams that the last iteration learned from, in the real environment: only measured, and counted."""
        assert self.services.fleet is not None
        if not self._dreams:
            return {}
        played = self.services.fleet.replay_for_real(self._dreams)
        self.real_measured += sum(again.steps for again in played)
        played = [again for again in played if not again.failed]
        left_out = {"again/left_out": len(self._dreams) - len(played)}
        if not played:
            log.warning("none of the dreams could be played again for real; train.min_kept has nothing to go by")
            return left_out
        return {f"again/{key}": value for key, value in real_replay_scores(played).items()} | left_out

    # Checkpoints -------------------------------------------------------------------------------

    def _checkpoint(self, iteration: int) -> None:
        """All that going on needs, in one folder that appears whole or not at all."""
        with self.clock("checkpoint"):
            home = self.folder / "checkpoints"
            partial_home = home / f"iteration-{iteration:05d}.partial"
            shutil.rmtree(partial_home, ignore_errors=True)
            partial_home.mkdir(parents=True)
            self.services.learner.save_checkpoint(partial_home / "learner")  # type: ignore[union-attr]
            if self.services.replay is not None:
                event_loop.run(self.services.replay.save(partial_home))
            state = {
                "iteration": iteration,
                "world": self.services.dream.model.name if self.services.dream is not None else "",
                "curriculum": self.curriculum.state(),
                "real_measured": self.real_measured,
                "max_gap": self.max_gap,
                "learned": self.learned,
                "tokens": self.tokens,
                "clock": self.clock.parts(),
                "learner": self._layout(),
            }
            write_json(partial_home / "state.json", state)
            whole = home / f"iteration-{iteration:05d}"
            shutil.rmtree(whole, ignore_errors=True)
            partial_home.rename(whole)
            for old in checkpoints(self.folder)[: -self.config.train.keep_checkpoints]:
                shutil.rmtree(old)
            if self._world_refresh is not None:
                self._forget_worlds()
            self._ledger.forget_draws(before=int(checkpoints(self.folder)[0].name.removeprefix("iteration-")))
            if self._remote is not None:
                self._remote.put(whole)

    def _forget_worlds(self) -> None:
        """Delete experience models that no checkpoint needs any more."""
        needed = {state_of(checkpoint)["world"] for checkpoint in checkpoints(self.folder)}
        for world in self.folder.glob("world-?????"):
            if world.name not in needed:
                shutil.rmtree(world)

    def _resume(self) -> int:
        """Back to the newest checkpoint, or to where the run begins; returns the iteration to go on from."""
        found = checkpoints(self.folder)
        if not found:
            first = 0 if self._after is None else self._take_over(self._after)
            self._log.truncate_after(-1)
            if self._ledger.draws(first):
                self._ledger.write("resumed", first)
            return first
        state = state_of(found[-1])
        iteration = int(state["iteration"])
        self.curriculum.load_state(state["curriculum"])
        self.real_measured, self.max_gap = int(state["real_measured"]), float(state["max_gap"])
        self.learned, self.tokens = dict(state["learned"]), int(state["tokens"])
        self.clock.go_on(state["clock"])
        self._check_layout(found[-1], state)
        self.services.learner.load_checkpoint(found[-1] / "learner")  # type: ignore[union-attr]
        if self.services.replay is not None:
            event_loop.run(self.services.replay.load(found[-1]))
        self._log.truncate_after(iteration)
        self._ledger.write("resumed", iteration)
        self._send_weights(iteration)
        return iteration

    def _layout(self) -> dict[str, int]:
        """What DeepSpeed's checkpoints depend on, though no result does."""
        return {name: int(getattr(self.config.learner, name)) for name in ("workers", "zero_stage")}

    def _check_layout(self, checkpoint: Path, state: dict[str, Any]) -> None:
        for name, value in self._layout().items():
            was = state.get("learner", {}).get(name, value)
            if was != value:
                raise DataError(
                    f"{checkpoint}: written with learner.{name}={was}, and only so can be read; set it again, or train "
                    "anew with --force."
                )

    def _take_over(self, folder: Path) -> int:
        """The learner, the values of the real tasks and the count of iterations of the run that ended in `folder`."""
        learner, policy = self.services.learner, self.services.policy
        assert learner is not None and policy is not None
        found = checkpoints(folder)
        if not found:
            raise DataError(f"{folder / 'checkpoints'}: no checkpoint to go on from; train again in a new run folder.")
        state = state_of(found[-1])
        iteration = int(state["iteration"])
        self.curriculum.take_over(state["curriculum"])
        self._check_layout(found[-1], state)
        learner.load_checkpoint(found[-1] / "learner", momentum=False)
        if max(policy.versions()) < iteration:
            self._send_weights(iteration)
        return iteration


def _counts(section: str, metrics: dict[str, float]) -> dict[str, float]:
    """What engines have counted, as `section/name`; their load is left out, which is that of a moment of rest here."""
    return {f"{section}/{name}": value for name, value in metrics.items() if name not in LOAD}
