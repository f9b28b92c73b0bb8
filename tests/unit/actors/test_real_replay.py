"""Dreams played again in the real game: a true one is won there too, a compliant one is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dreamgym.actors.real_replay import FALSE_WIN, RealReplay, real_replay_scores, replay_for_real
from dreamgym.config import EnvConfig
from dreamgym.envs.base import RealEnvironment
from dreamgym.envs.mapreader import MapReader
from dreamgym.types import StepResult, Trajectory, Transition
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def true_dream() -> Iterator[Trajectory]:
    """An episode that goes exactly as in reality."""
    env = MapReader()
    task = env.tasks("train", 1, 0)[0]
    state, _ = env.reset(task)
    dream = Trajectory("t", task, "policy", "dream")
    done = False
    while not done:
        action = env.expert_action()
        after, reward, done, _, _ = env.step(action)
        dream.steps.append(Transition(state, action, after, reward, done))
        state = after
    dream.success = True
    yield dream
    env.close()


def again(dream: Trajectory, kind: type[RealEnvironment] = RealEnvironment) -> RealReplay:
    async def run() -> RealReplay:
        env = kind(EnvConfig(name="mapreader", max_steps=12, timeout_s=HANG_S))
        try:
            return await replay_for_real(dream, env)
        finally:
            await env.close()

    return asyncio.run(run())


def test_a_true_dream_is_won_for_real(true_dream: Trajectory) -> None:
    assert again(true_dream) == RealReplay(
        dreamed=True, won=True, steps=len(true_dream.steps), parted=False, obeyed=False
    )


def test_a_dream_that_obeys_an_impossible_action_is_found_out(true_dream: Trajectory) -> None:
    first = true_dream.steps[0]
    kind = replace(true_dream, steps=[replace(first, action="put coin in box", next_state="solved", done=True)])
    assert again(kind) == RealReplay(dreamed=True, won=False, steps=1, parted=True, obeyed=True)


def test_a_dream_that_goes_another_way_has_not_obeyed(true_dream: Trajectory) -> None:
    other = replace(true_dream, steps=[replace(true_dream.steps[0], next_state="somewhere else")], success=False)
    assert again(other) == RealReplay(dreamed=False, won=False, steps=1, parted=True, obeyed=False)


def test_the_real_episode_is_told_as_it_went_and_says_whether_the_dream_was_too_kind(true_dream: Trajectory) -> None:
    first = true_dream.steps[0]
    kind = replace(
        true_dream, steps=[replace(first, action="put coin in box", next_state="solved", reward=1.0, done=True)]
    )
    episode = again(kind).episode
    assert episode is not None and episode.id != kind.id
    (step,) = episode.steps
    assert (episode.world, episode.success, episode.info, episode.task.id) == (
        "real",
        False,
        {FALSE_WIN: 1.0},
        kind.task.id,
    )
    assert (step.state, step.reward, step.done, step.valid) == (first.state, 0.0, False, False)
    assert step.next_state != "solved" and episode.task.first_state == first.state
    same = again(true_dream).episode
    assert same is not None and same.success and same.info == {FALSE_WIN: 0.0}
    assert same.steps == true_dream.steps


def test_where_the_policy_did_nothing_the_real_game_stands_still_too(true_dream: Trajectory) -> None:
    first = true_dream.steps[0]
    nothing = replace(first, action="", next_state="Nothing was done.", reward=0.0, done=False, malformed="no_action")
    found = again(replace(true_dream, steps=[nothing, *true_dream.steps]))
    assert found == RealReplay(dreamed=True, won=True, steps=1 + len(true_dream.steps), parted=False, obeyed=False)


def test_transitions_before_a_fault_are_counted(true_dream: Trajectory) -> None:
    class Dying(RealEnvironment):
        async def step(self, action: str) -> StepResult:
            answer = await super().step(action)
            return StepResult("", status="env_failed") if self.steps == 2 else answer

    found = again(true_dream, Dying)
    assert (found.failed, found.steps, found.won, found.episode) == (True, 1, False, None)


def test_shares_are_of_the_won_dreams() -> None:
    def one(dreamed: bool, won: bool, obeyed: bool) -> RealReplay:
        return RealReplay(dreamed, won, 5, obeyed, obeyed)

    played = [one(True, True, True), one(True, False, True), one(True, False, False), one(False, True, False)]
    assert real_replay_scores(played) == {"wins": 3.0, "kept": pytest.approx(1 / 3), "obeyed": pytest.approx(1 / 3)}
    assert real_replay_scores([one(False, False, True)]) == {"wins": 0.0}
