"""Playing by hand: steps back, the real environment beside, verdicts and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dreamgym.commands.sft import judged_by_hand
from dreamgym.config import RunConfig
from dreamgym.data import judged
from dreamgym.errors import DataError
from dreamgym.models.prompts import answer_parts
from dreamgym.play.player import Right
from dreamgym.types import Transition
from dreamgym.view.play import parted
from tests.unit.play.doors import FIRST, NAME, Doors, Scripted, player, write_run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return write_run(tmp_path)


async def test_a_step_back_dreams_nothing_anew_and_another_draw_dreams_all(config: RunConfig) -> None:
    world = Scripted()
    dream = player(config, world)
    played = await dream.play("t1", 0, ["look", "push"])
    assert [t.step.next_state for t in played.turns] == ["nothing happens: look", "the door opens"]
    assert played.turns[1].step.state == "nothing happens: look" and played.over == ""
    assert [d.score for d in played.turns[0].shown] == [0.875], "the demonstrations that the dream was shown"
    back = await dream.play("t1", 0, ["look"])
    other = await dream.play("t1", 0, ["look", "go up"])
    assert back.turns == played.turns[:1] and other.over == "won"
    assert world.asked == {"look": 1, "push": 1, "go up": 1}
    await dream.play("t1", 1, ["look"])
    assert world.asked["look"] == 2


async def test_an_episode_ends_as_in_training(config: RunConfig) -> None:
    dream = player(config)
    assert (await dream.play("t1", 0, ["a", "b", "c", "d"])).over == "cut"
    with pytest.raises(DataError, match="over after 4 steps"):
        await dream.play("t1", 0, ["a", "b", "c", "d", "e"])
    unread = await dream.play("t1", 0, ["a", "mumble"])
    assert unread.over == "unreadable" and "no readable step" in unread.turns[1].error


async def test_an_engine_that_failed_is_asked_again_and_cannot_be_judged(config: RunConfig) -> None:
    world = Scripted()
    dream = player(config, world)
    for times in (1, 2):
        failed = await dream.play("t1", 0, ["break"])
        assert failed.over == "failed" and failed.turns[0].error == "the engine is gone."
        assert world.asked["break"] == times
    with pytest.raises(DataError, match="no answer to judge"):
        await dream.judge("t1", 0, ["break"], "unreadable")


async def test_what_is_not_there_is_one_sentence(config: RunConfig) -> None:
    dream = player(config)
    with pytest.raises(DataError, match="no task 'gone' in this run; choose one of its 3 tasks"):
        await dream.play("gone", 0, [])
    with pytest.raises(DataError, match="type one"):
        dream.action("  ")
    with pytest.raises(DataError, match="no step to judge"):
        await dream.judge("t1", 0, [], "right")


def test_a_call_that_fits_no_tool_never_reaches_the_dream(config: RunConfig) -> None:
    env = config.env.model_copy(update={"name": f"{NAME}WithTools"})
    dream = player(config.model_copy(update={"env": env}))
    assert (
        dream.action(' {"arguments": {"to": "attic"}, "name": "go"} ') == '{"name": "go", "arguments": {"to": "attic"}}'
    )
    for typed, sentence in (
        ("go up", "is no call of one: it is no JSON"),
        ('{"name": "fly", "arguments": {}}', "there is no tool 'fly', but go"),
        ('{"name": "go", "arguments": {}}', "'to' is a required property"),
    ):
        with pytest.raises(DataError, match=sentence):
            dream.action(typed)


async def test_the_real_environment_plays_along_and_the_first_difference_is_found(config: RunConfig) -> None:
    dream, before = player(config), Doors.resets
    agreed = await dream.play("t1", 0, ["look"], beside=True)
    assert agreed.beside is not None and parted(agreed) is None
    assert agreed.beside.steps[0].next_state == "nothing happens: look" and not agreed.beside.steps[0].valid
    differs = await dream.play("t1", 0, ["look", "push"], beside=True)
    assert parted(differs) == {"step": 1, "what": "state"} and Doors.resets == before + 1
    again = await dream.play("t1", 0, ["look", "go up"], beside=True)
    assert again.beside is not None and again.beside.steps[-1].done and parted(again) is None
    assert Doors.resets == before + 2, "a step back begins the real episode anew"
    unread = await dream.play("t1", 0, ["look", "mumble"], beside=True)
    assert parted(unread) is None, "no answer is no difference"
    invented = await dream.play("g1", 0, ["look"], beside=True)
    assert invented.beside is not None and "only a dream can play it" in invented.beside.error
    await dream.close()


async def test_judged_steps_become_lines_that_are_read_back(config: RunConfig) -> None:
    dream = player(config)
    await dream.judge("t1", 0, ["look"], "right")
    await dream.judge("t1", 0, ["look", "push"], "wrong", Right("the door is shut", reasoning="it is  locked"))
    await dream.judge("t1", 0, ["look", "mumble"], "unreadable")
    await dream.judge("t2", 0, ["push"], "wrong", beside=True)
    await dream.judge("t1", 0, ["kick"], "right")
    last = await dream.judge("t1", 0, ["kick"], "wrong")
    steps = judged.read(dream.file)
    assert [(s.judged, s.truth_by) for s in steps] == [
        ("right", ""), ("wrong", "person"), ("unreadable", ""), ("wrong", "real"), ("wrong", "")
    ]  # fmt: skip
    assert steps[-1] == last, "the last word counts, and a line holds all of a step"
    assert steps[0].truth == steps[0].said == Transition(FIRST, "look", "nothing happens: look", 0, False, "it is look")
    assert steps[1].truth is not None and steps[1].truth.reasoning == "it is locked"
    assert steps[1].history == (steps[0].said,)
    assert steps[3].truth is not None and steps[3].truth.next_state == "nothing happens: push"
    assert steps[3].truth.reasoning.startswith("after 0 steps, push leads"), "by the environment's own rule"
    assert (await player(config).play("t1", 0, ["look"])).turns[0].judged == "right", "known when it is played again"
    await dream.close()


async def test_a_real_answer_is_no_truth_once_the_two_have_parted(config: RunConfig) -> None:
    dream = player(config)
    step = await dream.judge("t1", 0, ["push", "look"], "wrong", beside=True)
    assert step.truth is None and step.truth_by == ""
    await dream.close()


@pytest.mark.parametrize(
    ("actions", "verdict", "right", "sentence"),
    [
        (["mumble"], "right", None, "neither right nor wrong"),
        (["look"], "right", Right("x"), "needs no other one"),
        (["look"], "wrong", Right("nothing happens: look"), "is what the dream said"),
        (["look"], "wrong", Right("  "), "needs a next state"),
    ],
)
async def test_a_verdict_that_does_not_fit_is_refused_and_not_written(
    config: RunConfig, actions: list[str], verdict: judged.Verdict, right: Right | None, sentence: str
) -> None:
    dream = player(config)
    with pytest.raises(DataError, match=sentence):
        await dream.judge("t1", 0, actions, verdict, right)
    assert not dream.file.exists()


async def test_what_is_right_is_learned_from_and_the_dev_fold_is_not(config: RunConfig) -> None:
    dream = player(config)
    await dream.judge("t1", 0, ["look"], "right")
    await dream.judge("t1", 0, ["look", "push"], "wrong", Right("the door is shut"))
    await dream.judge("t1", 0, ["look", "push", "wait"], "right")
    await dream.judge("t1", 0, ["look", "stay"], "right")
    await dream.judge("t1", 0, ["kick"], "wrong")
    await dream.judge("t2", 0, ["look"], "right")
    steps = judged.read(dream.file)
    taught = judged.taught(steps, explained=True)
    learned = [[s.action for s in t.steps] for t in taught]
    assert sorted(learned) == [["look", "push"], ["stay"], ["wait"]], "each step once"
    assert taught[0].steps[1].next_state == "the door is shut"
    assert {t.task.id for t in taught} == {"t1"} and {t.world for t in taught} == {"dream"}
    for t in taught:
        for a, b in zip(t.steps, t.steps[1:], strict=False):
            assert a.next_state == b.state
        assert all(answer_parts(s)[0] for s in t.steps), "with reasoning"
    measured = judged.measurable(steps)
    assert sorted(len(t.steps) for t in measured) == [1, 1, 2, 2, 3]
    silent = [replace(s, truth=replace(s.truth, reasoning="") if s.truth else None) for s in steps]
    assert judged.taught(silent, explained=True) == [] and judged.taught(silent, explained=False)


async def test_the_experience_model_is_tuned_on_what_is_right(config: RunConfig) -> None:
    dream = player(config)
    await dream.judge("t2", 0, ["look"], "right")
    asked = config.model_copy(update={"world": config.world.model_copy(update={"sft_judged": [dream.file]})})
    assert judged_by_hand(config) == []
    with pytest.raises(DataError, match="has no step of the train fold that is right or put right"):
        judged_by_hand(asked)
    await dream.judge("t1", 0, ["look"], "right")
    assert [s.action for t in judged_by_hand(asked) for s in t.steps] == ["look"]


def test_a_line_that_is_no_judged_step_is_named(tmp_path: Path) -> None:
    path = tmp_path / judged.FILE
    with pytest.raises(DataError, match="no such file; judge steps"):
        judged.read(path)
    path.write_text('\n{"id": "x"}\n')
    with pytest.raises(DataError, match=r"judged.jsonl:2: model: Field required"):
        judged.read(path)


async def test_a_line_that_was_cut_off_does_not_spoil_the_next(config: RunConfig) -> None:
    dream = player(config)
    await dream.judge("t1", 0, ["look"], "right")
    with dream.file.open("ab") as file:
        file.write(b'{"id": "cut')
    await dream.judge("t1", 0, ["push"], "right")
    lines = dream.file.read_bytes().splitlines()
    assert len(lines) == 3 and b"push" in lines[2]
