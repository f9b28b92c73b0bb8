"""What a dream is shown: the nearest demonstration whoever asks, and by task the same as in the tuning."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dreamgym.config.loading import load_config
from dreamgym.data.examples import tokenizer_texts, world_examples
from dreamgym.models.chat import ChatFormat
from dreamgym.models.prompts import answer_parts, ask
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.replay.actor import ReplayActor
from dreamgym.replay.records import seed_transitions
from dreamgym.serve.experience import DreamQuery, retrieve
from dreamgym.types import Task, Trajectory, Transition

ROOMS = ("hall", "attic", "cellar", "study")
BY_TASK = ["env.name=twc", "replay.by_task=0.5", "replay.min_similarity=0.99", "world.sft_without_demos=0"]


def houses() -> list[Trajectory]:
    """Four walks in each of four houses, whose rooms hold other things."""
    rng, episodes = random.Random(0), []
    for house in range(4):
        task = Task(f"house{house}", "house", f"find thing{house}", first_state="at door sees nothing")
        holds = {room: f"thing{rng.randrange(8)}" for room in ROOMS}
        for walk in range(4):
            state, steps = task.first_state, []
            for _ in range(5):
                room = rng.choice(ROOMS)
                after = f"at {room} sees {holds[room]}"
                won = holds[room] == f"thing{house}"
                steps.append(Transition(state, f"go to {room}", after, float(won), won, f"{room} is a room"))
                state = after
            episodes.append(Trajectory(f"{house}-{walk}", task, "random", "real", steps))
    return episodes


HOUSES = houses()
CHAT = ChatFormat(train_tokenizer(tokenizer_texts(HOUSES, (), True), 330, 256))


@pytest.mark.parametrize("k", [1, 2])
async def test_whoever_asks_again_is_shown_the_nearest_demonstration_too(k: int) -> None:
    """It may be the one that says no, and a second opinion without it would be one without the evidence."""
    config = load_config(None, [f"replay.top_k={k}"]).replay
    buffer = ReplayActor(config, 0, "here")
    await buffer.add(seed_transitions(HOUSES))
    step = HOUSES[0].steps[0]
    first = DreamQuery(HOUSES[0].task, [], step.state, step.action, 0)
    (once,), (again,) = [await retrieve(buffer, config, [replace(first, skip_demos=skip)]) for skip in (0, 1)]
    assert len(once) == len(again) == k
    assert once[0] == again[0] and (once[0].state, once[0].action) == (step.state, step.action)
    assert k == 1 or once[1] != again[1]


@pytest.mark.parametrize("history", ["true", "false"])
async def test_by_task_a_dream_is_asked_with_the_demonstrations_that_the_tuning_showed(history: str) -> None:
    """Each recorded episode, dreamed along its true answers without its own steps, is its own example."""
    config = load_config(None, [*BY_TASK, f"world.history={history}"])
    buffer = ReplayActor(config.replay, 0, "here")
    examples = world_examples(config, HOUSES, CHAT)["ids"].to_pylist()
    shown = 0
    for left_out in HOUSES:
        others = [t for t in HOUSES if t is not left_out]
        buffer = ReplayActor(config.replay, 0, "here")
        await buffer.add(seed_transitions(others))
        transcript: list[int] = []
        for step in left_out.steps:
            query = DreamQuery(left_out.task, transcript, step.state, step.action, 0)
            (demos,) = await retrieve(buffer, config.replay, [query])
            shown += bool(demos)
            asked = (left_out.task, step.state, step.action, demos, (), True)
            transcript = ask(config.world, CHAT, transcript, *asked) + CHAT.answer("".join(answer_parts(step)))
            assert history == "true" or transcript in examples
        assert transcript in examples
    assert shown > 40


async def test_a_recorded_episode_that_is_measured_is_not_shown_its_own_steps() -> None:
    config = load_config(None, BY_TASK).replay
    buffer = ReplayActor(config, 0, "here")
    await buffer.add(seed_transitions(HOUSES[:1]))
    step = HOUSES[0].steps[0]
    query = DreamQuery(HOUSES[0].task, [], step.state, step.action, 0)
    with_it, without = await retrieve(buffer, config, [query, replace(query, without=HOUSES[0].id)])
    assert [d.next_state for d in with_it] == [step.next_state] and without == []
    assert await retrieve(None, config, [query]) == [[]]
