"""What the loop learns from, in order: which episodes are sent out when, and what the ledger says of them."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import Batch, RolloutFleet
from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.runs.ledger import Draw, Ledger
from dreamgym.training.branches import Branches
from dreamgym.types import Task, Trajectory, World, stable_id


class RolloutQueue:
    """Batches of episodes, one an iteration; those that go on beside the learner are its own affair.

    Batches are learned from in the order in which they were sent, so none is more than `train.max_staleness` updates
    old, and none is thrown away. While the learner works, the later ones are played, and go on under its new weights.
    With 0 nothing is played beside the learner.
    """

    def __init__(
        self,
        config: RunConfig,
        fleet: RolloutFleet,
        ledger: Ledger,
        curriculum: Curriculum,
        branches: Branches | None = None,
    ) -> None:
        """`branches` says where dreams begin that do not begin as their task does."""
        self._config = config
        self._branches = branches
        self._fleet = fleet
        self._ledger = ledger
        self._curriculum = curriculum
        self._budget = config.real.transitions if config.train.world == "real" else 0
        self._under_way: deque[Batch] = deque()

    def more(self, iteration: int, learned: int) -> bool:
        """Whether there is anything to play; `learned` counts the real transitions that were learned from."""
        return bool(self._under_way or self._groups(iteration, learned))

    def next(self, iteration: int, learned: int) -> list[Trajectory]:
        """This iteration's rollouts, on disk; those of later ones are sent out before they are awaited.

        For groups that taught nothing since all their rewards are equal, as many others of further tasks are played,
        in at most `train.resample` rounds (dynamic sampling, DAPO, arXiv 2503.14476). All are the iteration's own.
        """
        while len(self._under_way) <= self._config.train.max_staleness:
            at = iteration + len(self._under_way)
            groups = self._groups(at, learned)
            if not groups:
                break
            self._under_way.append(self._begin(at, groups))
        played = self._finish(iteration, self._under_way.popleft())
        wanted = len({t.group for t in played if t.status == "ok"})
        for turn in range(1, self._config.train.resample + 1):
            taken = sum(len(t.steps) for t in played if t.status == "ok")
            missing = min(wanted - uneven_groups(played), self._room(learned + taken))
            further = self._begin(iteration, missing, turn, played) if missing > 0 else None
            if further is None or not further.episodes:
                break
            played = self._finish(iteration, further, played)
        return played

    def spend(self, iteration: int, budget: int, size: int) -> list[Trajectory]:
        """Real episodes, on disk: `size` of each task, of as many tasks as fit into a budget of transitions.

        Whole groups are played as long as another one fits however long its episodes get; nothing is played beside.
        """
        played: list[Trajectory] = []
        for turn in itertools.count():
            taken = sum(len(t.steps) for t in played if t.status == "ok")
            groups = max(budget - taken, 0) // (size * self._config.env.max_steps)
            further = self._begin(iteration, groups, turn, played, "real", size) if groups else None
            if further is None or not further.episodes:
                break
            played = self._finish(iteration, further, played)
        return played

    def abandon(self, iteration: int) -> None:
        """End whatever is being played."""
        if self._under_way:
            self._fleet.abandon()
            self._ledger.write("abandoned", iteration, (e.id for b in self._under_way for e in b.episodes))

    def _begin(
        self,
        iteration: int,
        groups: int,
        turn: int = 0,
        played: Sequence[Trajectory] = (),
        world: World | None = None,
        size: int = 0,
    ) -> Batch:
        """Send out episodes of tasks that an iteration has not `played`; by default as `train` says.

        What was drawn before, in an earlier life of the run, is drawn alike; what was finished before is kept.
        """
        draws = self._ledger.draws(iteration)
        again = turn < len(draws)
        world, size = world or self._config.train.world, size or self._config.train.group_size
        without, invented = {t.task.id for t in played}, world == "dream"
        if again:
            tasks = self._curriculum.next_tasks_of(draws[turn].curriculum, draws[turn].groups, without, invented)
        else:
            self._ledger.draw(iteration, Draw(groups, self._curriculum.state()))
            tasks = self._curriculum.next_tasks(groups, without, invented)
        episodes = self._episodes(iteration, tasks, world, size)
        ids = {e.id for e in episodes}
        kept = [t for t in self._ledger.finished(iteration) if t.id in ids]
        sent = ids - {t.id for t in kept}
        if sent:
            self._ledger.write("retried" if again else "started", iteration, (e.id for e in episodes if e.id in sent))
        return self._fleet.begin(episodes, kept)

    def _finish(self, iteration: int, batch: Batch, before: Sequence[Trajectory] = ()) -> list[Trajectory]:
        """Wait for a batch; what the iteration has played `before`, and it."""
        new = self._fleet.finish(batch)
        played = [*before, *new]
        if batch.retried:
            self._ledger.write("retried", iteration, batch.retried)
        if any(t.status == "ok" for t in played):
            self._ledger.finish(iteration, new)
        return played

    def _groups(self, iteration: int, learned: int) -> int:
        """How many groups an iteration may play: 0 after the last one."""
        return self._room(learned) if iteration < self._config.train.iterations else 0

    def _room(self, learned: int) -> int:
        """At most how many groups may be played now.

        With a budget of real transitions they are whole groups that fit into what is left of it however long their
        episodes get, and however long those under way get.
        """
        groups = self._config.train.groups
        if not self._budget:
            return groups
        taken = learned + self._config.env.max_steps * sum(len(b.episodes) for b in self._under_way)
        return min(groups, max(self._budget - taken, 0) // largest_group(self._config))

    def _episodes(self, iteration: int, tasks: Iterable[Task], world: World, size: int) -> list[EpisodeSpec]:
        episodes = []
        for task in tasks:
            branch = self._branches.of(task, iteration) if self._branches and world == "dream" else None
            for index in range(size):
                name = stable_id(self._config.seed, iteration, task.id, index)
                episodes.append(
                    EpisodeSpec(
                        name,
                        task,
                        int(name, 16),
                        self._config.policy.sampling.temperature,
                        group=branch.group if branch else task.id,
                        iteration=iteration,
                        world=world,
                        before=branch.before if branch else (),
                    )
                )
        return episodes


def uneven_groups(trajectories: Iterable[Trajectory]) -> int:
    """How many groups have rewards that differ, to 4 places: what is read from a file then tells the same."""
    rewards: dict[str, set[float]] = {}
    for t in trajectories:
        if t.status == "ok":
            rewards.setdefault(t.group, set()).add(round(t.total_reward, 4))
    return sum(len(different) > 1 for different in rewards.values())


def largest_group(config: RunConfig) -> int:
    """The most transitions that a group can take."""
    return config.train.group_size * config.env.max_steps
