"""Killed at any moment, a resumed run has trained each trajectory exactly once, as it is on disk; the books say so."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import Batch
from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.runs.ledger import Account, account, add_up
from dreamgym.runs.log import Record
from dreamgym.runs.remote_checkpoints import RemoteCheckpoints
from dreamgym.schema import read_parquet
from dreamgym.telemetry.console import progress
from dreamgym.training.services import Services
from dreamgym.training.trainer import Trainer
from dreamgym.types import Task, TokenSample, Trajectory, Transition

ITERATIONS, GROUPS, SIZE = 4, 3, 2
TASKS = [Task(f"task-{n}", "house", f"go to room {n}", first_state="hall") for n in range(6)]


class Killed(BaseException):
    """The process ends here: nothing that comes later happens."""


class Fate:
    """Kills at the n-th of the moments that count: around every rename of a file, and in every part's call."""

    def __init__(self) -> None:
        self.left = 0

    def moment(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


class Parts:
    """Engines, learner and actors in miniature: weights are what was learned, in order; no two takes are alike."""

    def __init__(self, fate: Fate, takes: Iterator[int]) -> None:
        self.fate, self.takes = fate, takes
        self.weights: list[tuple[int, float]] = []
        self.shares: set[float] = set()
        self.loaded: list[bool] = []
        self.curriculum: Curriculum | None = None

    def begin(self, episodes: Sequence[EpisodeSpec], kept: Iterable[Trajectory]) -> Batch:
        self.fate.moment()
        return Batch("", list(episodes), {t.id: t for t in kept})

    def finish(self, batch: Batch) -> list[Trajectory]:
        self.fate.moment()
        self._invent()
        return [batch.kept.get(e.id) or self._play(e) for e in batch.episodes]

    def abandon(self) -> None:
        self.fate.moment()

    def metrics(self) -> dict[str, float]:
        return {}

    def rl_step(self, batch: pa.RecordBatch, share: float) -> dict[str, float]:
        self.fate.moment()
        assert share == min(1.0, batch.num_rows / (GROUPS * SIZE))  # of a usual batch, by what is kept
        self.shares.add(share)
        self.weights += [(row["ids"][0], row["logprobs"][1]) for row in batch.to_pylist()]
        self.fate.moment()
        return {"gap_mean": 0.0}

    def save_checkpoint(self, path: Path) -> None:
        path.mkdir()
        self.fate.moment()
        (path / "weights.json").write_text(json.dumps(self.weights))

    def load_checkpoint(self, path: Path, momentum: bool = True) -> None:
        self.loaded.append(momentum)
        self.weights = [(token, take) for token, take in json.loads((path / "weights.json").read_text())]

    def versions(self) -> list[int]:
        return [ITERATIONS]

    def update_weights(self, _: Any) -> float:
        self.fate.moment()
        return 0.0

    def _play(self, episode: EpisodeSpec) -> Trajectory:
        """Its token is its name; its logprob and its reward are of this take alone."""
        take = next(self.takes)
        won = float(take // 3 % 2)  # of pairs of takes one in three differs
        trajectory = episode.trajectory()
        trajectory.steps = [Transition("hall", "go", "room", won, True)]
        trajectory.samples = [TokenSample([token(episode.id), 1], [0, 1], [0.0, float(take)], [-1, 0])]
        return trajectory

    def _invent(self) -> None:
        """As the task generator does beside the learner, and never the same twice."""
        assert self.curriculum is not None
        name = f"invented-{next(self.takes)}"
        task = Task(name, "house", name, first_state="hall", origin="generated")
        self.curriculum.admit(task, [TASKS[0]], lambda texts: np.stack([axis(text) for text in texts]))


class Learner:
    """What the trainer asks of a learner, from `Parts`; its weights go over by reference."""

    direct = False

    def __init__(self, parts: Parts) -> None:
        self.rl_step = parts.rl_step
        self.save_checkpoint, self.load_checkpoint = parts.save_checkpoint, parts.load_checkpoint

    def weights(self, version: int, pack: Any) -> int:
        return version


def axis(text: str) -> np.ndarray:
    """A unit vector of its own for every text."""
    rng = np.random.default_rng(list(text.encode()))
    vector = rng.normal(size=16)
    return vector / np.linalg.norm(vector)


def token(name: str) -> int:
    return int(name, 16) & 0x7FFFFFFF


def mortal(monkeypatch: pytest.MonkeyPatch) -> Fate:
    """The fate of all lives of a test."""
    fate = Fate()
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def around(*arguments: Any, real: Callable[..., Any] = real) -> None:
            fate.moment()
            real(*arguments)
            fate.moment()

        monkeypatch.setattr(os, name, around)
    monkeypatch.setattr(ray, "get", lambda reference, timeout: reference)
    tokenizer = train_tokenizer(["go to the room"] * 50, 300, 64)
    monkeypatch.setattr("dreamgym.training.evaluator.load_chat", lambda path, forks: ChatFormat(tokenizer))
    return fate


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Fate:
    return mortal(monkeypatch)


def live(config: RunConfig, fate: Fate, takes: Iterator[int], remote: RemoteCheckpoints | None = None) -> Parts:
    """One life of the run, until it ends or is killed."""
    parts = Parts(fate, takes)
    services = Services(policy=parts, learner=Learner(parts), fleet=parts)  # type: ignore[arg-type]
    trainer = Trainer(config, config.run_dir / "train", services, TASKS, [], [], remote=remote)
    parts.curriculum = trainer.curriculum
    with progress("train", ITERATIONS, Console(file=io.StringIO())) as bar:
        trainer.run(bar)
    return parts


def lives(config: RunConfig, fate: Fate) -> Iterator[tuple[Parts, int]]:
    """The run killed at each moment in turn and then resumed: its last life, and how many it lost; at last 0."""
    moment, lost = 0, 1
    while lost:
        moment += 1
        takes = iter(range(10**6))
        fate.left = moment
        shutil.rmtree(config.run_dir / "train", ignore_errors=True)
        lost = 0
        while True:
            try:
                parts = live(config, fate, takes)
                break
            except Killed:
                lost += 1
        yield parts, lost


def check(config: RunConfig, parts: Parts) -> Account:
    """The books say that each started episode was trained once, and the weights are what is on disk, in order."""
    assert parts.weights == seen_by(config, 10**6)
    told = account(config.run_dir / "train" / "ledger.jsonl")
    assert told.started == told.finished == len(played(config, 10**6))
    assert told.lost == told.trained_twice == told.abandoned == 0
    return told


def played(config: RunConfig, iterations: int) -> list[Trajectory]:
    """What the first iterations played, as it is on disk."""
    return read_all(config.run_dir / "train", iterations)


def read_all(folder: Path, iterations: int = 10**6) -> list[Trajectory]:
    files = sorted((folder / "trajectories").glob("*.parquet"))
    return [t for file in files[:iterations] for t in read_parquet(file)]


def seen_by(config: RunConfig, iterations: int) -> list[tuple[int, float]]:
    """What weights have seen after so many iterations: of what is on disk, the groups that teach something."""
    rewards: dict[tuple[int, str], set[float]] = {}
    for t in played(config, iterations):
        rewards.setdefault((t.iteration, t.group), set()).add(t.total_reward)
    return [
        (t.samples[0].ids[0], t.samples[0].logprobs[1])
        for t in played(config, iterations)
        if len(rewards[t.iteration, t.group]) > 1 or config.learner.entropy_coef
    ]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return small(tmp_path)


def small(out: Path) -> RunConfig:
    """The settings of such a run."""
    return RunConfig.model_validate(
        {
            "out": out,
            "curriculum": {"generated_share": 0.5},
            "train": {
                "world": "real",
                "iterations": ITERATIONS,
                "groups": GROUPS,
                "group_size": SIZE,
                "eval_every": 0,
                "checkpoint_every": 2,
                "keep_checkpoints": 2,
            },
        }
    )


@pytest.mark.parametrize("staleness", [0, 1])
def test_killed_at_each_moment_it_trains_every_trajectory_once(config: RunConfig, fate: Fate, staleness: int) -> None:
    config.train.max_staleness = staleness
    moments = 0
    for parts, lost in lives(config, fate):
        told = check(config, parts)
        assert told.started == ITERATIONS * GROUPS * SIZE
        assert told.resumed <= lost <= 1
        assert told.retried <= (1 + staleness) * GROUPS * SIZE
        moments += 1
    assert moments > 40
    draws = sorted(p.name for p in (config.run_dir / "train" / "draws").iterdir())
    assert draws == ["iteration-00002.json", "iteration-00003.json"]  # no kept checkpoint leads to an earlier one


def test_what_a_budget_left_room_for_is_the_same_in_every_life(config: RunConfig, fate: Fate) -> None:
    """Those under way may take all their steps, and a resumed run knows that they took fewer."""
    config.train.max_staleness, config.env.max_steps = 1, 3
    config.real.transitions, config.learner.entropy_coef = 26, 0.1  # which leaves no group out
    shares = set()
    for parts, _ in lives(config, fate):
        assert check(config, parts).started <= config.real.transitions
        shares |= parts.shares
    assert shares == {1.0, 2 / 3, 1 / 3}  # of a usual batch, so that the rest of a budget does not weigh as much


def test_another_training_goes_on_with_the_weights_and_what_is_known_of_the_tasks(
    config: RunConfig, fate: Fate
) -> None:
    first = live(config, fate, iter(range(10**6)))
    assert first.curriculum is not None
    config.train.groups, config.train.iterations = 1, 1000
    config.env.max_steps, config.real.transitions = 3, 12
    after = Parts(fate, iter(range(1, 10**6)))  # of which every pair differs
    services = Services(policy=after, learner=Learner(after), fleet=after)  # type: ignore[arg-type]
    folder = config.run_dir / "train"
    trainer = Trainer(config, config.run_dir / "real", services, TASKS, [], [], folder, usual_groups=GROUPS)
    after.curriculum = trainer.curriculum
    known = {task.id: first.curriculum.value(task.id) for task in TASKS}
    with progress("real", ITERATIONS, Console(file=io.StringIO())) as bar:
        assert trainer.run(bar) > ITERATIONS
    assert after.loaded == [False]
    assert after.weights[: len(first.weights)] == first.weights
    assert after.shares == {1 / GROUPS}
    unseen = {task.id for task in TASKS} - {t.group for t in read_all(config.run_dir / "real")}
    assert unseen and all(trainer.curriculum.value(name) == known[name] for name in unseen)


@pytest.mark.parametrize("staleness", [0, 1])
def test_further_groups_are_trained_once_and_drawn_alike(config: RunConfig, fate: Fate, staleness: int) -> None:
    config.train.max_staleness, config.train.resample = staleness, 2
    for parts, lost in lives(config, fate):
        told = check(config, parts)
        assert told.resumed <= lost <= 1
        assert told.started > ITERATIONS * GROUPS * SIZE


@given(st.data())
def test_the_books_agree_with_weights_that_remember(data: st.DataObject) -> None:
    """Random lives of a careless run, which may skip a batch or train it twice: the oracle is the list of weights."""
    draw = data.draw
    weights: list[str] = []
    checkpoint: tuple[int, list[str]] = (0, [])
    events: list[Record] = []
    started: list[str] = []
    iteration = retried = resumed = 0
    for _ in range(draw(st.integers(0, 30))):
        move = draw(st.sampled_from(["train", "train", "skip", "twice", "save", "die"]))
        ids = [f"{iteration}-{n}" for n in range(2)]
        if move in ("train", "skip", "twice"):
            retried += sum(i in started for i in ids)
            events.append({"kind": "retried" if ids[0] in started else "started", "iteration": iteration, "ids": ids})
            started += [i for i in ids if i not in started]
            times = {"train": 1, "skip": 0, "twice": 2}[move]
            weights += ids * times
            events += [{"kind": "trained", "iteration": iteration, "ids": ids}] * times
            iteration += 1
        elif move == "save":
            checkpoint = (iteration, list(weights))
        else:
            iteration, weights = checkpoint[0], list(checkpoint[1])
            resumed += 1
            events.append({"kind": "resumed", "iteration": iteration, "ids": []})
    told = add_up(events)
    assert (told.started, told.retried, told.resumed) == (len(started), retried, resumed)
    assert told.lost == len(set(started) - set(weights))
    assert told.trained_twice == sum(n - 1 for n in Counter(weights).values())


def test_what_is_abandoned_at_the_end_is_not_lost() -> None:
    events = [
        {"kind": "started", "iteration": 0, "ids": ["a", "b"]},
        {"kind": "started", "iteration": 1, "ids": ["c", "d"]},
        {"kind": "trained", "iteration": 0, "ids": ["a", "b"]},
        {"kind": "abandoned", "iteration": 1, "ids": ["c"]},
    ]
    told = add_up(events)
    assert (told.started, told.abandoned, told.lost) == (4, 1, 1)
