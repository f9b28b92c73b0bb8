"""What an iteration plays: further tasks in place of groups that ended alike, within their bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import Batch
from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.runs.ledger import Ledger, account
from dreamgym.training.branches import Branches
from dreamgym.training.rollout_queue import RolloutQueue, uneven_groups
from dreamgym.types import Task, Trajectory, Transition

GROUPS, SIZE, STEPS = 4, 2, 3


class Fleet:
    """Plays an episode in `STEPS` steps; only a group of an `open` task has one that is won, and `broken` ones fail."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []

    def begin(self, episodes: Sequence[EpisodeSpec], kept: Iterable[Trajectory]) -> Batch:
        self.sent.append(list(dict.fromkeys(e.task.id for e in episodes)))
        return Batch("", list(episodes), {t.id: t for t in kept})

    def finish(self, batch: Batch) -> list[Trajectory]:
        return [self._play(e, at % SIZE == 0) for at, e in enumerate(batch.episodes)]

    def _play(self, episode: EpisodeSpec, first: bool) -> Trajectory:
        t = episode.trajectory()
        won = float(first and episode.task.id.startswith("open"))
        t.steps = [Transition("hall", "go", "hall", won * (n == STEPS - 1), n == STEPS - 1) for n in range(STEPS)]
        t.status = "env_failed" if episode.task.id.startswith("broken") else "ok"
        return t


def play(
    folder: Path, kinds: dict[str, int], resample: int, learned: int = 0, **real: int
) -> tuple[Fleet, list[Trajectory]]:
    """One iteration among tasks of these kinds."""
    train = {"groups": GROUPS, "group_size": SIZE, "resample": resample, "world": "real" if real else "dream"}
    config = RunConfig.model_validate({"train": train, "real": real, "env": {"max_steps": STEPS}})
    tasks = [Task(f"{kind}-{n}", "house", f"{kind} {n}") for kind, count in kinds.items() for n in range(count)]
    fleet, ledger = Fleet(), Ledger(folder)
    played = RolloutQueue(config, fleet, ledger, Curriculum(tasks, config.curriculum, 0)).next(0, learned)  # type: ignore[arg-type]
    ledger.write("trained", 0, (t.id for t in played))
    told = account(folder / "ledger.jsonl")
    assert (told.started, told.lost, told.trained_twice) == (len(played), 0, 0)
    assert told.finished == len(played) * any(t.status == "ok" for t in played)
    assert set(Counter(t.group for t in played).values()) == {SIZE}
    return fleet, played


def test_off_it_takes_what_comes(tmp_path: Path) -> None:
    fleet, played = play(tmp_path, {"solved": 20}, resample=0)
    assert len(fleet.sent) == 1
    assert len(played) == GROUPS * SIZE


def test_as_many_further_tasks_are_played_as_groups_ended_alike(tmp_path: Path) -> None:
    fleet, played = play(tmp_path, {"solved": 10, "open": 10}, resample=50)
    assert uneven_groups(played) == GROUPS
    missing = GROUPS
    for sent in fleet.sent:
        assert len(sent) == missing
        missing -= sum(name.startswith("open") for name in sent)
    assert len(fleet.sent) > 1


def test_the_rounds_are_bounded_and_so_are_the_tasks(tmp_path: Path) -> None:
    fleet, played = play(tmp_path / "rounds", {"solved": 40}, resample=3)
    assert [len(sent) for sent in fleet.sent] == [GROUPS] * 4
    fleet, played = play(tmp_path / "tasks", {"solved": 7}, resample=9)
    assert len({t.group for t in played}) == 7


def test_failed_groups_are_no_reason_to_play_more(tmp_path: Path) -> None:
    fleet, _ = play(tmp_path, {"broken": 20}, resample=3)
    assert len(fleet.sent) == 1


@pytest.mark.parametrize(("budget", "groups"), [(24, 4), (29, 4), (30, 5), (48, 8)])
def test_a_budget_bounds_them_with_what_this_iteration_took(tmp_path: Path, budget: int, groups: int) -> None:
    _, played = play(tmp_path, {"solved": 40}, resample=9, learned=10, transitions=10 + budget)
    assert len({t.group for t in played}) == groups


def spent(folder: Path, budget: int, size: int, fleet: Fleet | None = None) -> list[Trajectory]:
    """What a real iteration of a run in the dream plays, among real tasks and an invented one."""
    config = RunConfig.model_validate({"train": {"groups": GROUPS, "group_size": SIZE}, "env": {"max_steps": 5}})
    curriculum = Curriculum([Task(f"open-{n}", "house", f"open {n}") for n in range(30)], config.curriculum, 0)
    invented = Task("invented", "house", "open it", first_state="hall", origin="generated", parent_ids=("open-0",))
    curriculum._keep(invented, [curriculum.task("open-0")], "active", "")
    ledger = Ledger(folder)
    played = RolloutQueue(config, fleet or Fleet(), ledger, curriculum).spend(7, budget, size)  # type: ignore[arg-type]
    ledger.write("trained", 7, (t.id for t in played))
    return played


@pytest.mark.parametrize(("budget", "size", "episodes"), [(4, 1, 0), (5, 1, 1), (40, 1, 12), (40, 2, 12), (9, 2, 0)])
def test_a_real_iteration_spends_its_budget_in_whole_groups_of_different_real_tasks(
    tmp_path: Path, budget: int, size: int, episodes: int
) -> None:
    """An episode may take 5 steps and takes 3: what is left over is spent on further ones, while one still fits."""
    played = spent(tmp_path, budget, size)
    assert len(played) == episodes
    assert sum(len(t.steps) for t in played) <= budget
    assert {t.world for t in played} <= {"real"} and {t.iteration for t in played} <= {7}
    assert set(Counter(t.task.id for t in played).values()) <= {size} and "invented" not in {t.task.id for t in played}
    told = account(tmp_path / "ledger.jsonl")
    assert (told.started, told.finished, told.lost, told.trained_twice) == (episodes, episodes, 0, 0)


def test_a_real_iteration_that_is_begun_again_takes_no_transition_twice(tmp_path: Path) -> None:
    class Kept(Fleet):
        def finish(self, batch: Batch) -> list[Trajectory]:
            assert len(batch.kept) == len(batch.episodes), "all of it is on disk"
            return [batch.kept[e.id] for e in batch.episodes]

    first = spent(tmp_path, 40, 1)
    again = spent(tmp_path, 40, 1, Kept())
    assert [t.id for t in again] == [t.id for t in first]


def test_dreams_of_a_branched_group_go_on_from_the_same_recorded_steps(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"train": {"groups": GROUPS, "group_size": SIZE}})
    tasks = [Task(f"open-{n}", "house", f"open {n}") for n in range(9)]
    steps = [Transition(f"s{n}", "go", f"s{n + 1}", 0.0, False) for n in range(5)]
    branches = Branches(1.0, 0, [Trajectory(f"r-{t.id}", t, "expert", "real", steps, success=True) for t in tasks])
    sent: list[EpisodeSpec] = []

    class Seen(Fleet):
        def begin(self, episodes: Sequence[EpisodeSpec], kept: Iterable[Trajectory]) -> Batch:
            sent.extend(episodes)
            return super().begin(episodes, kept)

    queue = RolloutQueue(config, Seen(), Ledger(tmp_path), Curriculum(tasks, config.curriculum, 0), branches)  # type: ignore[arg-type]
    played = queue.next(0, 0)
    assert set(Counter((e.group, len(e.before)) for e in sent).values()) == {SIZE}
    assert all(e.group != e.task.id and 3 <= len(e.before) <= 4 for e in sent)
    assert len({t.group for t in played}) == GROUPS
    sent.clear()
    queue.spend(1, 1000, 1)
    assert sent and not any(e.before for e in sent), "a real episode begins as its task does"


def test_groups_differ_as_their_file_would_tell() -> None:
    def group(*rewards: float) -> list[Trajectory]:
        task = Task("t", "house", "go")
        steps = [[Transition("hall", "go", "hall", reward, True)] for reward in rewards]
        return [Trajectory(f"e{n}", task, "policy", "dream", steps=s, group="t") for n, s in enumerate(steps)]

    assert uneven_groups(group(0.1 + 0.2, 0.3)) == 0
    assert uneven_groups(group(0.3, 0.31)) == 1
