"""A dream that begins in the middle of a recorded episode: what is read, and what is learned."""

from __future__ import annotations

import asyncio

import pytest

from dreamgym.actors.episode import EpisodeSpec, play
from dreamgym.config import PolicyConfig
from dreamgym.models.chat import ChatFormat
from dreamgym.serve.dream import DreamEnvironment
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.types import Task, Trajectory, Transition
from tests.unit.actors.scripts import PLAIN, Dreamer, Script

RECORDED = (
    Transition("start", "move north", "hall", 0.0, False, thought="north first"),
    Transition("hall", "take coin", "hall, coin taken", 0.0, False),
)


class Recalling(Dreamer):
    """Keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[DreamQuery] = []

    async def step(self, query: DreamQuery) -> DreamAnswer:
        self.queries.append(query)
        return await super().step(query)


@pytest.mark.parametrize("context", ["grow", "window", "steps"])
def test_a_dream_that_goes_on_from_a_recorded_episode_reads_it_and_learns_only_its_own_steps(
    chat: ChatFormat, context: str
) -> None:
    task = Task("t", "e", "goal", first_state="start")
    policy = PolicyConfig.model_validate({"context": context, "context_turns": 1})
    script, world, memo = Script(chat, ["move south", "put coin in box", "take coin"]), Recalling(), {}
    env = DreamEnvironment(world, 4, 5, memo, before=RECORDED)  # type: ignore[arg-type]
    t = asyncio.run(play(EpisodeSpec("e", task, 0, 1.0, before=RECORDED), env, script, chat, policy))
    assert [(s.state, s.action) for s in t.steps] == [("hall, coin taken", "move south"), ("seen", "put coin in box")]
    assert t.truncated, "the recorded steps count"
    sampled = [i for s in t.samples for i, m in zip(s.ids, s.mask, strict=True) if m]
    assert sampled == [i for s in t.steps for i in chat.answer(s.action)]
    assert all(any(sample.mask) for sample in t.samples)
    shown = chat.decode(script.prompts[0])
    assert "move north" in shown and "hall, coin taken" in shown
    assert world.queries[0].before == RECORDED and world.queries[0].state == "hall, coin taken"
    assert not world.queries[1].before and world.queries[1].transcript == [1]
    key = ("t", "move north", "take coin", "move south")
    assert (5, key) in memo, "shared only by dreams that go on from the same steps"


def test_the_policy_reads_a_recorded_episode_as_it_would_have_read_its_own(chat: ChatFormat) -> None:
    """Up to the branch, the ids are those of the same episode played from its start."""
    task = Task("t", "e", "goal", first_state="start")

    class Same(Dreamer):
        async def step(self, query: DreamQuery) -> DreamAnswer:
            known = {step.action: step.next_state for step in RECORDED}
            return DreamAnswer(state=known.get(query.action, "seen"), transcript=[1])

    def of(before: tuple[Transition, ...], *actions: str) -> Trajectory:
        env = DreamEnvironment(Same(), 3, 5, before=before)  # type: ignore[arg-type]
        return asyncio.run(
            play(EpisodeSpec("e", task, 0, 1.0, before=before), env, Script(chat, [*actions]), chat, PLAIN)
        )

    whole, branched = of((), "move north", "take coin", "move south"), of(RECORDED, "move south")
    assert whole.samples[0].ids == branched.samples[0].ids
    assert sum(branched.samples[0].mask) == len(chat.answer("move south"))
