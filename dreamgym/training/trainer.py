"""The training loop: reads like the algorithm of the paper, top to bottom.

tasks ──► rollouts in the dream ──► Arrow ──► GRPO on the learner ──► new weights to the engines
  ▲             │         ▲                          (beside it)
  │             ▼         │ demos            new tasks are invented, dreamed
  └── V_tau, lambda    replay buffer ◄────── transitions pass the write gate
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.curriculum.progress import Progress
from dreamgym.envs.base import env_tools
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.batches import rl_batch
from dreamgym.models.chat import load_chat
from dreamgym.models.turns import Turns
from dreamgym.runs.ledger import Ledger
from dreamgym.runs.log import RunLog, read_log
from dreamgym.runs.remote_checkpoints import RemoteCheckpoints
from dreamgym.telemetry.clock import Clock
from dreamgym.telemetry.console import Bar, console
from dreamgym.telemetry.metrics import MALFORMED, UNREADABLE, RolloutSink, Sink
from dreamgym.telemetry.rollouts import rollouts
from dreamgym.training.branches import Branches
from dreamgym.training.checkpointing import Checkpointer, Totals
from dreamgym.training.corrections import Corrections, correct
from dreamgym.training.enrichment import Enrichment
from dreamgym.training.evaluator import Evaluator
from dreamgym.training.guard import stop_reason
from dreamgym.training.rollout_metrics import rollout_metrics
from dreamgym.training.rollout_queue import RolloutQueue
from dreamgym.training.rounds import Rounds
from dreamgym.training.services import Services
from dreamgym.training.world_refresh import WorldRefresh
from dreamgym.types import Task, Trajectory, World

log = logging.getLogger(__name__)


class Trainer:
    """One policy in training; `run` goes from its last checkpoint, or from where it begins, to the end.

    It begins with the warm start, or where the run of the folder `after` ended: the learner (its optimiser as new), the
    values of the tasks and the count of iterations go on. In the real environment it ends where `real.transitions`
    leave no room for another group. What is won in `seed_data` is how far episodes come is measured by. A batch of
    `usual_groups` groups (by default `train.groups`) makes `learner.minibatches` steps, and a smaller one fewer.

    With `rounds` (and a dream) some iterations are real, and correct the dream; then only they do.
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
        rounds: Rounds | None = None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.services = services
        self.curriculum = Curriculum(tasks, config.curriculum, config.seed)
        self.corrections = Corrections(config, [task.id for task in tasks])
        self.clock = Clock()
        self.totals = Totals()
        self._warned = False
        self.ended_early = ""
        self._progress = Progress(seed_data)
        self._evaluator = Evaluator(config, services, dev_tasks, heldout, seed_data)
        self._log = RunLog(folder / "metrics.jsonl")
        self._sinks = [self._log, *sinks]
        self._ledger = Ledger(folder)
        assert services.fleet is not None
        self._branches = _branches(config, seed_data)
        self._queue = RolloutQueue(config, services.fleet, self._ledger, self.curriculum, self._branches)
        self._enrichment = Enrichment(config, services, self.curriculum)
        self._world: World = config.train.world
        self._budget = config.real.transitions if self._world == "real" else 0
        self._after = after
        self._checkpointer = Checkpointer(
            folder,
            config.learner,
            services,
            keep=config.train.keep_checkpoints,
            curriculum=self.curriculum,
            corrections=self.corrections,
            clock=self.clock,
            totals=self.totals,
            log=self._log,
            ledger=self._ledger,
            remote=remote,
            send=self._send_weights,
        )
        self._world_refresh = world_refresh
        self._rounds = rounds
        self._usual_groups = usual_groups or config.train.groups
        self._dreams: list[Trajectory] = []
        self._versions: list[int] = []

    def run(self, bar: Bar) -> int:
        """Train to the end, from where the folder's newest checkpoint is; returns the number of the last iteration."""
        first = self._checkpointer.resume(self._after)
        if first == 0:
            self._evaluate(0)
        iteration = first
        last = self._untrue() or not self._queue.more(first, self.totals.learned["real"])
        with ThreadPoolExecutor(1) as beside:
            while not last:
                is_real = self._rounds is not None and self._rounds.is_real(iteration)
                metrics = self._correct(iteration) if is_real else self._iterate(iteration, beside)
                iteration += 1
                self._record("iteration", iteration, metrics)
                done = self.totals.learned["real"] if self._budget else iteration
                bar.reach(done, self._told(metrics, "real" if is_real else self._world))
                minutes = self.clock.total / 60
                late = 0 < self.config.train.minutes <= minutes
                last = late or not self._queue.more(iteration, self.totals.learned["real"])
                if last:
                    self._queue.abandon(iteration)
                every = self.config.train.eval_every
                if every and (iteration % every == 0 or last):
                    self._evaluate(iteration)
                    if not last and self._untrue():
                        last = True
                        self._queue.abandon(iteration)
                if self._world_refresh is not None and not self._rounds and self._world_refresh.due(iteration):
                    self._record("refresh", iteration, self._refresh(iteration))
                if last or iteration % self.config.train.checkpoint_every == 0:
                    with self.clock("checkpoint"):
                        self._checkpointer.save(iteration)
        self._log.close()
        self._ledger.close()
        return iteration

    def _untrue(self) -> bool:
        """Whether the evaluations so far say to end early; `ended_early` then says why."""
        if self.config.train.min_kept:
            self.ended_early = stop_reason(read_log(self._log.path), self.config.train)
        return bool(self.ended_early)

    def _told(self, metrics: dict[str, Any], world: World) -> str:
        """How an iteration went, in a few words; the first one whose dreams cannot be read is told at length."""
        episodes, failed = metrics["rollout/episodes"], metrics["dream/env_failed"]
        words = f"{world} {metrics['dream/success']:.0%}"
        if failed:
            words += f" of {episodes - failed}, {failed} failed"
        if abs(metrics["dream/reward"] - metrics["dream/success"]) >= 0.01:  # what is rewarded and is no success
            words += f", mean reward {metrics['dream/reward']:.2f}"
        if (malformed := metrics["rollout/malformed"]) >= MALFORMED:
            words += f", {malformed:.0%} of answers were no action"
        if world == "dream" and failed > UNREADABLE * episodes and not self._warned:
            self._warned = True
            console.print(
                f"[yellow]{failed} of {episodes} dreams could not be read:[/] what is said of the others tells little; "
                "tune the experience model longer (world.sft.tokens), or take a larger one (world.model)."
            )
        return words

    # One iteration -----------------------------------------------------------------------------

    def _iterate(self, iteration: int, beside: ThreadPoolExecutor) -> dict[str, Any]:
        before = time.monotonic()
        with self.clock("rollout"):
            trajectories = self._queue.next(iteration, self.totals.learned["real"])
        self._tell_rollouts(iteration + 1, trajectories)
        dreams = (t for t in trajectories if t.world == "dream" and t.task.origin == "real" and t.status == "ok")
        self._dreams = [self._branches.whole(t) for t in dreams]
        metrics = rollout_metrics(trajectories, time.monotonic() - before, self._versions)
        if self._world == "real":
            self.totals.real_measured += _unused(trajectories)
        self.totals.tokens += int(metrics["rollout/tokens"] + metrics.get("rollout/dream_computed", 0))
        metrics |= self._value_tasks(trajectories, iteration)
        refreshed = beside.submit(self._enrichment.run, trajectories, iteration)
        if self.config.train.colocate:
            refreshed.result()  # it asks the engines, which are to sleep
        metrics |= self._learn(trajectories, iteration, self._world)
        self._ledger.write("trained", iteration, (t.id for t in trajectories))
        with self.clock("curriculum and replay"):
            metrics |= refreshed.result()
        return metrics | self._accounts()

    def _correct(self, iteration: int) -> dict[str, Any]:
        """A real iteration among dreamed ones: the policy plays, a copy of the dream learns, and the policy may too."""
        assert self._rounds is not None and self._world_refresh is not None
        before = time.monotonic()
        room = self._rounds.room(iteration, self.totals.learned["real"])
        with self.clock("rollout"):
            played = self._queue.spend(iteration, room, self._rounds.group)
        metrics = rollout_metrics(played, time.monotonic() - before, self._versions)
        self.totals.tokens += int(metrics["rollout/tokens"])
        self.totals.real_measured += _unused(played)
        ok = [t for t in played if t.status == "ok"]
        if self._rounds.updates:
            metrics |= self._value_tasks(played, iteration) | self._learn(played, iteration, "real")
        else:
            metrics["learner/real_transitions"] = sum(len(t.steps) for t in ok)
            self.totals.learned["real"] += metrics["learner/real_transitions"]
        self._ledger.write("trained", iteration, (t.id for t in played))
        self._dreams = []  # those of now are of an older policy
        with self.clock("refresh of the dream"):
            self._world_refresh.mark_false_wins(ok, self.services)
            metrics |= correct(self.config, self.folder, self.services, self.corrections, ok)
        self.totals.tokens += int(metrics["correct/tokens"])
        return metrics | self._refresh(iteration + 1) | self._accounts()

    def _refresh(self, iteration: int) -> dict[str, Any]:
        """Let a copy of the experience model learn, and take over if it is no less true."""
        assert self._world_refresh is not None
        with self.clock("refresh of the dream"):
            metrics = self._world_refresh.run(iteration, self.services, self.curriculum.task, self.corrections)
        self.totals.tokens += int(metrics.get("refresh/tokens", 0))
        return metrics

    def _accounts(self) -> dict[str, Any]:
        """What the fleet has counted, and where the loop's time went, since the start."""
        assert self.services.fleet is not None
        fleet = {f"fleet/{name}": count for name, count in self.services.fleet.metrics().items()}
        return fleet | {f"time/{part.replace(' ', '_')}": seconds for part, seconds in self.clock.parts().items()}

    def _record(self, kind: str, iteration: int, metrics: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(kind, iteration, metrics)

    def _tell_rollouts(self, iteration: int, trajectories: Sequence[Trajectory]) -> None:
        """Some of the episodes to the trackers, under the number of the record that follows."""
        for sink in self._sinks:
            if isinstance(sink, RolloutSink):
                sink.rollouts(iteration, rollouts(trajectories))

    def _value_tasks(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """V_tau of the iteration's tasks; a group that began late in an episode says nothing of its task's."""
        branched = len({t.group for t in trajectories if t.group != t.task.id})
        trajectories = [t for t in trajectories if t.group == t.task.id]
        tasks = {t.group: t.task for t in trajectories}
        ok = {task_id: [t for t in trajectories if t.group == task_id and t.status == "ok"] for task_id in tasks}
        rewards = {task_id: [t.total_reward for t in group] for task_id, group in ok.items()}
        progress = {task_id: [self._progress.of(t) for t in group] for task_id, group in ok.items()}
        clusters = self.curriculum.clusters(rewards, self._enrichment.embed)
        values = [self.curriculum.record(task_id, r, iteration, progress[task_id]) for task_id, r in clusters.items()]
        generated = sum(task.origin == "generated" for task in tasks.values())
        return {
            "curriculum/progress": statistics.fmean([p for g in progress.values() for p in g or [0.0]] or [0.0]),
            "curriculum/value_mean": sum(values) / max(len(values), 1),
            "curriculum/generated_share": generated / max(len(tasks), 1),
            "curriculum/flat_groups": sum(value == 0 for value in values) / max(len(values), 1),
            "curriculum/branched_groups": branched,
        }

    def _learn(self, trajectories: Sequence[Trajectory], iteration: int, world: World) -> dict[str, Any]:
        """Advantages, an update, and the new weights in every engine."""
        settings = self.config.learner
        batch, groups_left_out, rows_left_out, groups = rl_batch(
            trajectories, resolve(settings), settings.bootstrap_truncated, settings.token_budget
        )
        transitions = sum(len(t.steps) for t in trajectories if t.status == "ok")
        self.totals.learned[world] += transitions
        learned = {f"learner/{w}_transitions": transitions * (w == world) for w in ("dream", "real")}
        learned |= {"learner/groups_left_out": groups_left_out, "learner/rows_left_out": rows_left_out}
        if batch.num_rows == 0:
            return {**learned, "learner/skipped": 1}
        learner, policy = self.services.learner, self.services.policy
        assert learner is not None and policy is not None
        share = min(1.0, groups / self._usual_groups)
        with self.clock("learner"), self.services.engines_asleep():
            metrics = {f"learner/{name}": value for name, value in learner.rl_step(batch, share).items()}
        self.totals.max_gap = max(self.totals.max_gap or 0.0, metrics["learner/gap_mean"])
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

    def _evaluate(self, iteration: int) -> None:
        if not self.config.train.eval_every:
            return
        with self.clock("evaluation"):
            metrics, steps, episodes = self._evaluator.measure(iteration, self._dreams)
        limit = self.config.world.refresh.transitions
        if limit and episodes:
            metrics |= correct(self.config, self.folder, self.services, self.corrections, episodes, limit)
            metrics["learner/real_transitions"] = learned = int(metrics["correct/transitions"])
            self.totals.learned["real"] += learned
            self.totals.tokens += int(metrics["correct/tokens"])
            steps -= learned
        self.totals.real_measured += steps
        self._record("eval", iteration, metrics | {"real/transitions": self.totals.real_measured})


def _unused(played: Sequence[Trajectory]) -> int:
    """Real transitions of episodes that failed, and of attempts that did."""
    return sum(t.lost + (len(t.steps) if t.status != "ok" else 0) for t in played)


def _branches(config: RunConfig, seed_data: Sequence[Trajectory]) -> Branches:
    if not config.train.branched or config.train.world == "real":
        return Branches(0.0, config.seed, ())
    chat = load_chat(config.run_dir / "warm_start", forks=True, tools=env_tools(config.env.name))
    return Branches(config.train.branched, config.seed, seed_data, Turns(chat, config.policy.format).holds)
