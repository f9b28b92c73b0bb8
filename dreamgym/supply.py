"""What the loop learns from, in order: which episodes are sent out when, and what the ledger says of them."""

from __future__ import annotations

from collections import deque

from dreamgym.actors.episode import Episode
from dreamgym.actors.fleet import Batch, RolloutFleet
from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.obs.ledger import Draw, Ledger
from dreamgym.types import Trajectory, stable_id


class Supply:
    """Batches of episodes, one an iteration; those that go on beside the learner are its own affair.

    Batches are learned from in the order in which they were sent, so none is more than `train.max_staleness` updates
    old, and none is thrown away. While the learner works, the later ones are played, and go on under its new weights.
    With 0 nothing is played beside the learner.
    """

    def __init__(self, config: RunConfig, fleet: RolloutFleet, ledger: Ledger, curriculum: Curriculum) -> None:
        self._config = config
        self._fleet = fleet
        self._ledger = ledger
        self._curriculum = curriculum
        self._budget = config.real.transitions if config.train.world == "real" else 0
        self._under_way: deque[Batch] = deque()

    def more(self, iteration: int, learned: int) -> bool:
        """Whether there is anything to play; `learned` counts the real transitions that were learned from."""
        return bool(self._under_way or self._groups(iteration, learned))

    def next(self, iteration: int, learned: int) -> list[Trajectory]:
        """This iteration's rollouts, on disk; those of later ones are sent out before they are awaited."""
        while len(self._under_way) <= self._config.train.max_staleness:
            at = iteration + len(self._under_way)
            groups = self._groups(at, learned)
            if not groups:
                break
            self._under_way.append(self._begin(at, groups))
        return self._finish(iteration, self._under_way.popleft())

    def abandon(self, iteration: int) -> None:
        """End whatever is being played."""
        if self._under_way:
            self._fleet.abandon()
            self._ledger.write("abandoned", iteration, (e.id for b in self._under_way for e in b.episodes))

    def _begin(self, iteration: int, groups: int) -> Batch:
        """Send out an iteration's episodes; what was drawn before is drawn alike, what was finished before is kept."""
        drawn, kept = self._ledger.drawn(iteration), self._ledger.finished(iteration)
        if drawn is None:
            self._ledger.draw(iteration, Draw(groups, self._curriculum.state()))
        else:
            self._curriculum.load_state(drawn.curriculum)
        episodes = self._episodes(iteration, drawn.groups if drawn else groups)
        known = {t.id for t in kept}
        sent = [e.id for e in episodes if e.id not in known]
        if sent:
            self._ledger.write("retried" if drawn else "started", iteration, sent)
        return self._fleet.begin(episodes, kept)

    def _finish(self, iteration: int, batch: Batch) -> list[Trajectory]:
        trajectories = self._fleet.finish(batch)
        if batch.retried:
            self._ledger.write("retried", iteration, batch.retried)
        if any(t.status == "ok" for t in trajectories):
            self._ledger.finish(iteration, trajectories)
        return trajectories

    def _groups(self, iteration: int, learned: int) -> int:
        """How many groups an iteration may play: 0 after the last one.

        With a budget of real transitions they are whole groups that fit into what is left of it however long their
        episodes get, and however long those under way get.
        """
        train = self._config.train
        if iteration >= train.iterations:
            return 0
        if not self._budget:
            return train.groups
        taken = learned + self._config.env.max_steps * sum(len(b.episodes) for b in self._under_way)
        return min(train.groups, max(self._budget - taken, 0) // largest_group(self._config))

    def _episodes(self, iteration: int, groups: int) -> list[Episode]:
        episodes = []
        for task in self._curriculum.next_tasks(groups):
            for index in range(self._config.train.group_size):
                name = stable_id(self._config.seed, iteration, task.id, index)
                episodes.append(
                    Episode(
                        name,
                        task,
                        int(name, 16),
                        self._config.policy.sampling.temperature,
                        group=task.id,
                        iteration=iteration,
                        world=self._config.train.world,
                    )
                )
        return episodes


def largest_group(config: RunConfig) -> int:
    """The most transitions that a group can take."""
    return config.train.group_size * config.env.max_steps
