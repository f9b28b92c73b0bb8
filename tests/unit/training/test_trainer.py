"""The loop's accounts of real transitions: those that correct the dream are counted as learned from, each once.

What takes minutes (engines, learner, the tuning of a copy) is played by scripts; loop, queue, ledger, curriculum,
corrections and checkpoints are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import Batch
from dreamgym.actors.real_replay import FALSE_WIN, RealReplay
from dreamgym.config import RunConfig
from dreamgym.errors import EngineError
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.runs.ledger import account
from dreamgym.runs.log import read_log
from dreamgym.schema import read_parquet
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.training.rounds import Rounds
from dreamgym.training.services import Services
from dreamgym.training.trainer import Trainer
from dreamgym.types import Task, TokenSample, Trajectory, Transition

TASKS = [Task(f"t{n}", f"{__name__}:House", f"open {n}", first_state="hall") for n in range(24)]
STEPS = 3


class House:
    """An environment with a rule for reasoning; nobody plays it here."""

    tasks = reset = step = close = lambda self: None

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        return "so it is"


class Fleet:
    """Episodes of three steps; every other one of a group is won, and real ones are counted."""

    def __init__(self) -> None:
        self.real = 0

    def begin(self, episodes: Sequence[EpisodeSpec], kept: Iterable[Trajectory] = ()) -> Batch:
        return Batch("", list(episodes), {t.id: t for t in kept})

    def finish(self, batch: Batch) -> list[Trajectory]:
        return [batch.kept.get(e.id) or self._play(e, at % 2 == 0) for at, e in enumerate(batch.episodes)]

    def play(self, episodes: Sequence[EpisodeSpec]) -> list[Trajectory]:
        return self.finish(self.begin(episodes))

    def _play(self, episode: EpisodeSpec, won: bool) -> Trajectory:
        t = episode.trajectory()
        words = [f"go {episode.id[:4]} {n}" for n in range(STEPS)]
        t.steps = [
            Transition("hall", word, "hall", float(won and n == STEPS - 1), won and n == STEPS - 1)
            for n, word in enumerate(words)
        ]
        t.success, t.samples = won, [TokenSample([1, 2], [0, 1], [0.0, -0.1], [-1, 0])]
        self.real += STEPS * (t.world == "real")
        return t

    def replay_for_real(self, dreams: Sequence[Trajectory]) -> list[RealReplay]:
        """No dream is won for real."""
        lost = [replace(s, reward=0.0, done=False) for s in dreams[0].steps] if dreams else []
        found = []
        for t in dreams:
            steps = [replace(step, action=own.action) for step, own in zip(lost, t.steps, strict=True)]
            info = {FALSE_WIN: float(t.success)}
            real = replace(t, id=f"{t.id}+real", world="real", steps=steps, success=False, samples=[], info=info)
            found.append(RealReplay(t.success, False, STEPS, False, False, False, real))
        self.real += STEPS * len(dreams)
        return found

    def metrics(self) -> dict[str, float]:
        return {}

    def abandon(self) -> None: ...


class Learner:
    direct = False
    updates = 0

    def rl_step(self, batch: Any, share: float) -> dict[str, float]:
        self.updates += 1
        return {"gap_mean": 0.0}

    def weights(self, version: int, pack: Any) -> list[Any]:
        return []

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir()

    def load_checkpoint(self, folder: Path, momentum: bool = True) -> None: ...


class Policy:
    def versions(self) -> list[int]:
        return [0]

    def update_weights(self, parts: Any) -> float:
        return 0.0

    def metrics(self) -> dict[str, float]:
        return {}


class World:
    """A dream in which nothing is won."""

    async def step(self, query: DreamQuery) -> DreamAnswer:
        return DreamAnswer("so", query.state, transcript=[1], asked=1)

    async def metrics(self) -> dict[str, float]:
        return {}


class Refresh:
    """Where a copy of the dream would be tuned: notes what from, and dies when it is told to."""

    def __init__(self, dies_at: int = 0) -> None:
        self.ran: list[tuple[int, int]] = []
        self._dies_at = dies_at

    def due(self, iteration: int) -> bool:
        return iteration % 2 == 0

    def mark_false_wins(self, episodes: Sequence[Trajectory], services: Services) -> None: ...

    def run(self, iteration: int, services: Services, task_of: Any, corrections: Any) -> dict[str, float]:
        if iteration == self._dies_at:
            raise EngineError("the tuner died")
        self.ran.append((iteration, sum(len(t.steps) for t in corrections.learned)))
        return {"refresh/dreams": 0.0, "refresh/tokens": 5.0}


def config(out: Path, **sections: dict[str, Any]) -> RunConfig:
    train = {"groups": 3, "group_size": 2, "iterations": 6, "eval_every": 0, "checkpoint_every": 1}
    base: dict[str, Any] = {
        "out": out,
        "env": {"name": f"{__name__}:House", "max_steps": 5},
        "curriculum": {"generated_share": 0},
        "train": train | sections.pop("train", {}),
        **sections,
    }
    made = RunConfig.model_validate(base)
    train_tokenizer(["open hall go so it is"] * 8, 300, 256).save_pretrained(made.run_dir / "world")
    return made


def trainer(config: RunConfig, fleet: Fleet, refresh: Refresh, rounds: Rounds | None = None) -> Trainer:
    dream = SimpleNamespace(model=config.run_dir / "world", world=World(), tasks=None)
    parts: dict[str, Any] = {"policy": Policy(), "learner": Learner(), "fleet": fleet, "dream": dream}
    services = Services(**parts)
    return Trainer(config, config.run_dir / "train", services, TASKS, [], [], world_refresh=refresh, rounds=rounds)  # type: ignore[arg-type]


BAR: Any = SimpleNamespace(reach=lambda *_: None)


@pytest.mark.parametrize("limit", [0, 7, 1000])
def test_an_evaluation_lets_the_dream_learn_within_its_limit_and_counts_it_as_learned(
    tmp_path: Path, limit: int
) -> None:
    refresh = {"every": 2, "transitions": limit}
    settings = config(tmp_path, world={"refresh": refresh}, train={"iterations": 4, "eval_every": 2})
    fleet, tuned = Fleet(), Refresh()
    loop = trainer(settings, fleet, tuned)
    assert loop.run(BAR) == 4
    learned = loop.totals.learned["real"]
    assert learned + loop.totals.real_measured == fleet.real == 2 * 6 * STEPS
    assert learned == sum(len(t.steps) for t in loop.corrections.learned)
    assert learned == sum(r.get("learner/real_transitions", 0) for r in read_log(loop.folder / "metrics.jsonl"))
    assert learned == 0 if limit == 0 else 0 < learned <= 2 * limit
    assert [iteration for iteration, _ in tuned.ran] == [2, 4]
    assert tuned.ran[0][1] > 0 or limit == 0, "a refresh reads what the evaluation just before it took"
    if limit:
        assert all(step.reasoning == "so it is" for t in loop.corrections.learned for step in t.steps)
        assert limit > 7 or all(t.info[FALSE_WIN] for t in loop.corrections.learned), "false wins come first"
        newest = sorted((loop.folder / "checkpoints").iterdir())[-1]
        assert {t.world for t in read_parquet(newest / "corrections.parquet")} == {"real"}


@pytest.mark.parametrize("use", ["dream", "both"])
def test_rounds_spend_their_budget_on_what_was_asked_for_and_a_resumed_run_takes_nothing_twice(
    tmp_path: Path, use: str
) -> None:
    real = {"transitions": 44, "use": use, "rounds": 2, "dream_iterations": 2}
    settings = config(tmp_path, real=real)
    rounds, fleet, died, tuned = Rounds.of(settings, 0), Fleet(), Refresh(dies_at=4), Refresh()
    with pytest.raises(EngineError, match="the tuner died"):
        trainer(settings, fleet, died, rounds).run(BAR)
    taken = fleet.real
    loop = trainer(settings, fleet, tuned, rounds)
    assert loop.run(BAR) == rounds.end == 6
    assert fleet.real == taken, "the real episodes of the round that died are on disk"
    assert loop.totals.learned["real"] == fleet.real <= 44
    assert fleet.real > 44 - 2 * 2 * 5, "what is left has no room for another group"
    assert [iteration for iteration, _ in (*died.ran, *tuned.ran)] == [1, 4]
    worlds = [
        {t.world for t in read_parquet(loop.folder / "trajectories" / f"iteration-{i:05d}.parquet")} for i in range(6)
    ]
    assert worlds == [{"real"}, {"dream"}, {"dream"}] * 2
    assert loop.totals.learned["dream"] == 4 * 6 * STEPS
    log = [r for r in read_log(loop.folder / "metrics.jsonl") if r["kind"] == "iteration"]
    assert sum(r["learner/real_transitions"] for r in log) == fleet.real
    updated = [r["iteration"] for r in log if "learner/gap_mean" in r]
    assert updated == ([2, 3, 5, 6] if use == "dream" else [1, 2, 3, 4, 5, 6])
    told = account(loop.folder / "ledger.jsonl")
    assert (told.lost, told.trained_twice) == (0, 0)
