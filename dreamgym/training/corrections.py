"""Real episodes on the policy's own path: what the experience model is corrected by, and what judges its copies.

DAgger's idea (arXiv 1011.0686) for the dream: it is taught where the policy goes, and where it is too kind. A fifth of
the tasks is held back: their episodes are never learned from, so that a copy of the model is judged on steps of the
policy that it has not seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

from dreamgym.actors.real_replay import FALSE_WIN
from dreamgym.config import RunConfig
from dreamgym.data.reasoning import explain
from dreamgym.errors import DataError
from dreamgym.models.chat import ChatFormat
from dreamgym.replay.records import StoredTransition, from_trajectory
from dreamgym.runtime import event_loop
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.serve.dream import WorldClient
from dreamgym.training.fidelity import predict
from dreamgym.training.services import Services
from dreamgym.types import Trajectory, is_success, stable_id

FILE = "corrections.parquet"
HELD_BACK = 0.2
"""Share of the tasks."""
JUDGES = 48
"""Episodes that judge a copy at most, the newest: every one costs dream steps, and old ones are of an old policy."""


class Corrections:
    """What was taken so far, in its order; goes into every checkpoint."""

    def __init__(self, config: RunConfig, tasks: Collection[str]) -> None:
        """`tasks` are the ids of the training tasks; an episode of any other is refused."""
        self._seed = config.seed
        self._false_wins = config.world.refresh.false_wins
        self._tasks = frozenset(tasks)
        self.learned: list[Trajectory] = []
        self.judges: list[Trajectory] = []

    def take(self, episodes: Sequence[Trajectory], limit: int | None = None) -> list[Trajectory]:
        """Take real episodes: those of held-back tasks to judge, of the others as many whole ones as `limit` allows.

        Those that repeat what was done before teach nothing and are left out. What the dream won and reality did not
        comes first, then what both won. `limit` is in transitions; None takes all.

        Returns:
            Those to learn from that are new.

        Raises:
            DataError: an episode is dreamed, or its task is none of the training tasks.
        """
        for t in episodes:
            if t.world != "real" or t.fold != "train" or t.task.id not in self._tasks:
                raise DataError(
                    f"corrections: episode {t.id} ({t.world}, fold {t.fold}) is no real one of a training task; the "
                    "experience model learns from no other."
                )
        kind_last = sorted(episodes, key=lambda t: t.info.get(FALSE_WIN, 0.0))
        fresh = list({_path(t): t for t in kind_last if t.status == "ok" and t.steps}.values())
        known = {_path(t) for t in self.learned}
        new: list[Trajectory] = []
        for t in sorted(fresh, key=lambda t: (-t.info.get(FALSE_WIN, 0.0), not t.success)):
            room = limit is None or sum(len(other.steps) for other in (*new, t)) <= limit
            if room and not self._held_back(t) and _path(t) not in known:
                new.append(t)
        self.learned += new
        judges = {_path(t): t for t in (*self.judges, *filter(self._held_back, fresh))}
        self.judges = list(judges.values())[-JUDGES:]
        return new

    def to_learn(self) -> list[Trajectory]:
        """What a copy is tuned on: each episode once, one that the dream would have won `false_wins` times.

        The copies have one id, so that none of them is shown as a demonstration of another.
        """
        return [t for t in self.learned for _ in range(self._false_wins if t.info.get(FALSE_WIN) else 1)]

    def _held_back(self, t: Trajectory) -> bool:
        return int(stable_id(self._seed, "held back", t.task.id), 16) < HELD_BACK * 16**16

    def save(self, folder: Path) -> None:
        """Write what was taken, where there is any."""
        if self.learned or self.judges:
            write_parquet(folder / FILE, [*self.learned, *self.judges])

    def load(self, folder: Path) -> None:
        """Become what was saved in `folder`; nothing where nothing was."""
        found = read_parquet(folder / FILE) if (folder / FILE).exists() else []
        self.learned = [t for t in found if not self._held_back(t)]
        self.judges = [t for t in found if self._held_back(t)]


def correct(
    config: RunConfig,
    folder: Path,
    services: Services,
    corrections: Corrections,
    episodes: Sequence[Trajectory],
    limit: int | None = None,
) -> dict[str, float]:
    """Take real episodes, explain them as `annotate.by` says, and put them into the buffer.

    Args:
        folder: keeps what a teacher answered.
        limit: of the transitions to learn from; see `Corrections.take`.

    Returns:
        `correct/…`: episodes, transitions and false_wins to learn from that are new, episodes that judge, and tokens.

    Raises:
        DreamgymError: an episode is none to learn from, or cannot be explained or stored.
    """
    new = corrections.take(episodes, limit)
    tokens = explain(config, new, folder / "corrections.jsonl")
    if services.replay is not None and new:
        event_loop.run(services.replay.add(to_store(new)))
    told = {
        "episodes": len(new),
        "transitions": sum(len(t.steps) for t in new),
        "false_wins": sum(t.info.get(FALSE_WIN, 0.0) for t in new),
        "judges": len(corrections.judges),
        "tokens": tokens,
    }
    return {f"correct/{name}": float(value) for name, value in told.items()}


async def mark_false_wins(
    episodes: Sequence[Trajectory], world: WorldClient, chat: ChatFormat, seed: int, above: float
) -> None:
    """Note in real episodes, in place, whether the dream would have had a step of theirs solve the task that did not.

    Args:
        above: the reward above which an end is a success.
    """
    told = await asyncio.gather(*(predict([t], world, chat, seed) for t in episodes))
    for t, predictions in zip(episodes, told, strict=True):
        lost = (p.dream for p in predictions if not is_success(p.real.reward, p.real.done, above))
        t.info[FALSE_WIN] = float(any(not dream.error and dream.solved(above) for dream in lost))


def to_store(episodes: Sequence[Trajectory]) -> list[StoredTransition]:
    """The transitions of episodes for the buffer, each once."""
    items = (item for t in episodes for item in from_trajectory(t))
    return list({item.content: item for item in items}.values())


def _path(t: Trajectory) -> tuple[str, ...]:
    """What was done in which task."""
    return (t.task.id, *(step.action for step in t.steps))
