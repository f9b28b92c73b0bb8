"""What the dream is corrected by: real episodes of training tasks, false wins first, and none that judges a copy."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from dreamgym.actors.real_replay import FALSE_WIN
from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.training.corrections import Corrections, correct, mark_false_wins, to_store
from dreamgym.training.services import Services
from dreamgym.types import Task, Trajectory, Transition

TASKS = [f"task-{n}" for n in range(200)]
CONFIG = RunConfig()


def episode(task: str, steps: int = 3, false_win: bool = False, won: bool = False, word: str = "go") -> Trajectory:
    done = [Transition(f"s{n}", f"{word} {n}", f"s{n + 1}", float(won and n == steps - 1), False) for n in range(steps)]
    t = Trajectory(f"{task}-{word}+real", Task(task, "coin", "win"), "policy", "real", done, success=won, iteration=4)
    t.info = {FALSE_WIN: float(false_win)}
    return t


def parted() -> tuple[list[str], list[str]]:
    """Tasks that are learned from, and those that are held back."""
    found = Corrections(CONFIG, TASKS)
    learned = [task for task in TASKS if found.take([episode(task)])]
    return learned, [t.task.id for t in found.judges]


LEARNED, HELD_BACK = parted()


def test_a_fifth_of_the_tasks_judges_and_is_never_learned_from() -> None:
    assert 0.1 * len(TASKS) < len(HELD_BACK) < 0.3 * len(TASKS)
    assert len(LEARNED) + len(HELD_BACK) >= len(TASKS) - 12 and not set(LEARNED) & set(HELD_BACK)
    found = Corrections(CONFIG, TASKS)
    for _ in range(2):
        assert found.take([episode(task, word=word) for task in HELD_BACK for word in ("go", "run")]) == []
    assert not found.learned and not found.to_learn()
    assert len(found.judges) == 48 < 2 * len(HELD_BACK), "only the newest judge"
    assert len({(t.task.id, t.steps[0].action) for t in found.judges}) == 48


def test_false_wins_come_first_then_wins_and_only_whole_episodes_that_fit() -> None:
    a, b, c, d = LEARNED[:4]
    offered = [episode(a), episode(b, won=True), episode(c, false_win=True, steps=5), episode(d, false_win=True)]
    found = Corrections(CONFIG, TASKS)
    assert [t.task.id for t in found.take(offered, limit=12)] == [c, d, b]
    assert sum(len(t.steps) for t in found.learned) == 11
    assert [t.task.id for t in Corrections(CONFIG, TASKS).take(offered, limit=4)] == [d]
    assert len(Corrections(CONFIG, TASKS).take(offered)) == 4


def test_what_was_done_before_is_left_out_and_false_wins_are_read_more_often() -> None:
    task, other = LEARNED[:2]
    found = Corrections(CONFIG, TASKS)
    assert len(found.take([episode(task), episode(task), episode(task, word="run", false_win=True)])) == 2
    assert found.take([episode(task), episode(other)])[0].task.id == other
    assert len(found.take([replace(episode(other, word="fly"), status="env_failed")])) == 0
    assert found.take([episode(task, word="hop", false_win=True), episode(task, word="hop")])[0].info[FALSE_WIN]
    counts = [sum(t is learned for t in found.to_learn()) for learned in found.learned]
    assert sorted(counts) == [1, 1, *[CONFIG.world.refresh.false_wins] * 2]


@pytest.mark.parametrize(
    "wrong", [{"fold": "dev"}, {"fold": "test"}, {"world": "dream"}, {"task": Task("elsewhere", "coin", "win")}]
)
def test_no_other_task_than_those_of_training_is_ever_taken(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError, match="no real one of a training task"):
        Corrections(CONFIG, TASKS).take([replace(episode(LEARNED[0]), **wrong)])  # type: ignore[arg-type]


def test_a_checkpoint_holds_what_was_taken(tmp_path: Path) -> None:
    found, again = Corrections(CONFIG, TASKS), Corrections(CONFIG, TASKS)
    found.save(tmp_path)
    again.take([episode(LEARNED[0])])
    again.load(tmp_path)
    assert not again.learned
    found.take([episode(LEARNED[0], false_win=True), episode(LEARNED[1]), episode(HELD_BACK[0])])
    found.save(tmp_path)
    again.load(tmp_path)
    assert (again.learned, again.judges) == (found.learned, found.judges) and len(again.to_learn()) == 4


def test_the_buffer_gets_each_transition_once_as_a_real_one() -> None:
    items = to_store([episode(LEARNED[0]), replace(episode(LEARNED[0]), id="again"), episode(LEARNED[1])])
    assert len(items) == 6
    assert {i.world for i in items} == {"real"} and not any(i.missing_provenance() for i in items)


def test_corrections_are_explained_as_the_seed_data_is_and_counted_to_the_transition(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"env": {"name": f"{__name__}:Ruled"}})
    found, mine = Corrections(config, TASKS), [episode(LEARNED[0], false_win=True), episode(HELD_BACK[0], steps=9)]
    told = correct(config, tmp_path, Services(), found, mine, limit=5)
    assert [step.reasoning for step in found.learned[0].steps] == ["after go 0", "after go 1", "after go 2"]
    counted = {key.removeprefix("correct/"): value for key, value in told.items()}
    assert counted == {"episodes": 1, "transitions": 3, "false_wins": 1, "judges": 1, "tokens": 0}


class Ruled:
    """An environment with a rule for reasoning."""

    tasks = reset = step = close = lambda self: None

    @staticmethod
    def reason(task: Task, history: list[Transition], transition: Transition) -> str:
        return f"after {transition.action}"


class Kind:
    """A dream that says every `run` solves the task."""

    async def step(self, query: DreamQuery) -> DreamAnswer:
        won = query.action.startswith("run")
        return DreamAnswer("so", query.state, float(won), won, transcript=[1, 2], asked=1)


def test_a_step_that_only_the_dream_has_solve_the_task_marks_a_false_win() -> None:
    chat = ChatFormat(train_tokenizer(["go run so"] * 8, 300, 256))
    won = episode("b", word="run", won=True, steps=1)
    won.steps = [replace(won.steps[0], done=True)]
    mine = [episode("a", word="go"), won, episode("c", word="run", steps=1)]
    asyncio.run(mark_false_wins(mine, Kind(), chat, 0, 0.0))  # type: ignore[arg-type]
    assert [t.info[FALSE_WIN] for t in mine] == [0, 0, 1]
