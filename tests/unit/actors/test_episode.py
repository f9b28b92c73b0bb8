"""An episode's tokens: only what was sampled carries loss, and the ids are those that the engine read and wrote."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest

from dreamgym.actors.episode import EpisodeSpec, play
from dreamgym.config import EnvConfig, PolicyConfig
from dreamgym.envs.base import RealEnvironment
from dreamgym.envs.mapreader import MapReader
from dreamgym.errors import EngineError
from dreamgym.models.chat import ChatFormat
from dreamgym.serve.dream import DreamEnvironment
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.types import Task, Trajectory
from tests.unit.actors.scripts import PLAIN, Dreamer, Script
from tests.waiting import HANG_S


@pytest.fixture(scope="module")
def task() -> Iterator[Task]:
    env = MapReader()
    yield env.tasks("train", 1, 0)[0]
    env.close()


def played(
    task: Task, script: Script, chat: ChatFormat, max_steps: int = 4, policy: PolicyConfig = PLAIN
) -> Trajectory:
    async def run() -> Trajectory:
        env = RealEnvironment(EnvConfig(name="mapreader", max_steps=max_steps, timeout_s=HANG_S))
        try:
            return await play(EpisodeSpec("e", task, 0, 1.0, world="real"), env, script, chat, policy)
        finally:
            await env.close()

    return asyncio.run(run())


def test_only_sampled_tokens_carry_loss_and_each_prompt_extends_the_last(task: Task, chat: ChatFormat) -> None:
    actions = ["move north", "take coin", "nonsense", "move east"]
    script = Script(chat, actions)
    t = played(task, script, chat)
    (sample,) = t.samples
    assert [s.action for s in t.steps] == actions
    assert t.truncated and not t.success
    sampled = [i for i, m in zip(sample.ids, sample.mask, strict=True) if m]
    assert sampled == [i for a in actions for i in chat.answer(a)]
    for prompt in script.prompts:
        assert sample.ids[: len(prompt)] == prompt
        assert sample.mask[len(prompt)] == 1 and sample.mask[len(prompt) - 1] == 0
    for mask, logprob, version in zip(sample.mask, sample.logprobs, sample.versions, strict=True):
        assert (logprob, version) == ((-0.5, 7) if mask else (0.0, -1))


def test_the_tokens_are_those_of_the_whole_conversation(task: Task, chat: ChatFormat) -> None:
    t = played(task, Script(chat, ["move north", "take coin"]), chat, max_steps=2)
    messages = [{"role": "user", "content": f"{task.instruction}\n{t.steps[0].state}"}]
    messages += [{"role": "assistant", "content": "move north"}, {"role": "user", "content": t.steps[0].next_state}]
    assert t.samples[0].ids == chat.start(messages) + chat.answer("take coin")


def test_an_answer_that_was_cut_short_is_not_acted_on_and_closed_by_a_token_without_loss(
    task: Task, chat: ChatFormat
) -> None:
    other = copy.copy(chat)
    other.stop_ids = [chat.end_id - 1, chat.end_id]  # as of a model whose eos token ends no turn
    script = Script(other, ["move north", "move north"], finish="length")
    t = played(task, script, other, max_steps=2)
    sample = t.samples[0]
    ends = [m for i, m in zip(sample.ids, sample.mask, strict=True) if i == chat.end_id]
    assert ends and not any(ends)
    told = "Nothing was done: your answer was cut off before its end."
    messages = [{"role": "user", "content": f"{task.instruction}\n{t.steps[0].state}"}]
    messages += [{"role": "assistant", "content": "move north"}, {"role": "user", "content": told}]
    assert script.prompts[1] == chat.start(messages)
    for step in t.steps:
        assert (step.action, step.answer, step.malformed) == ("", "move north", "unfinished")
        assert (step.next_state, step.state, step.valid) == (told, t.steps[0].state, False)
    assert t.truncated and not t.success


class Echo:
    """A user's class that says what it was told; it is solved by `end`."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def tasks(self, fold: str, count: int, seed: int) -> list[Task]:
        return [Task("t", "echo", "say it")]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        self.told = []
        return "begin", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.told.append(action)
        done = action == "end"
        return f"{len(self.told)}: {action}", float(done), done, False, {}

    def close(self) -> None: ...


ANSWERS = [
    "Thought: code first\nAction: def f(x):\n    return [x,  1]",
    "Thought: hm",
    "Thought: " + "because " * 80 + "\nAction: end",
]


def echoed(chat: ChatFormat, answers: list[str], **policy: Any) -> Trajectory:
    async def run() -> Trajectory:
        env = RealEnvironment(EnvConfig(name=f"{__name__}:Echo", max_steps=4, timeout_s=HANG_S))
        settings = PolicyConfig(format="react", **policy)
        try:
            return await play(
                EpisodeSpec("e", Task("t", "echo", "say it"), 0, 1.0, world="real"),
                env,
                Script(chat, answers),
                chat,
                settings,
            )
        finally:
            await env.close()

    return asyncio.run(run())


def test_the_world_is_told_the_action_alone_as_it_was_written(chat: ChatFormat) -> None:
    t = echoed(chat, ANSWERS)
    assert [s.action for s in t.steps] == ["def f(x):\n    return [x,  1]", "", "end"]
    assert [s.thought for s in t.steps] == ["code first", "hm", ("because " * 80).strip()]
    assert [s.answer for s in t.steps] == ANSWERS
    assert [s.malformed for s in t.steps] == ["", "no_action", ""]
    told = "1: def f(x):\n    return [x,  1]"
    assert [s.state for s in t.steps] == ["begin", told, told]
    assert t.steps[1].next_state.startswith("Nothing was done: your answer has no action. Write ")
    assert (t.success, t.total_reward) == (True, 1.0)
    assert chat.decode(t.samples[0].ids).count("Write 'Thought:'") == 2, "at the beginning, and after the fault"


@pytest.mark.parametrize(
    ("malformed", "steps", "reward", "success"),
    [("answer", 3, 1.0, True), ("penalty", 3, 0.75, True), ("end", 2, 0.0, False)],
)
def test_an_answer_that_is_no_action_costs_what_the_setting_says(
    chat: ChatFormat, malformed: str, steps: int, reward: float, success: bool
) -> None:
    t = echoed(chat, ANSWERS, malformed=malformed, malformed_penalty=0.25)
    assert (len(t.steps), t.total_reward, t.success) == (steps, reward, success)
    assert t.steps[1].done == (malformed == "end") and not t.truncated


def test_answers_without_an_action_use_up_the_steps_of_an_episode(chat: ChatFormat) -> None:
    t = echoed(chat, ["hm"] * 9)
    assert (len(t.steps), t.truncated, t.success) == (4, True, False)


def test_what_a_group_shares_is_dreamed_and_counted_once(chat: ChatFormat) -> None:
    task = Task("t", "e", "goal", first_state="start")
    scripts = [["move north", "take coin"], ["move north", "move east"], ["move north", "take coin"]]
    world, memo = Dreamer(), {}

    async def one(actions: list[str]) -> Trajectory:
        env = DreamEnvironment(world, 2, 5, memo)  # type: ignore[arg-type]
        return await play(EpisodeSpec("e", task, 0, 1.0), env, Script(chat, actions), chat, PLAIN)

    async def all_of_them() -> list[Trajectory]:
        return await asyncio.gather(*(one(actions) for actions in scripts))

    group = asyncio.run(all_of_them())
    assert world.asked == sum(t.info.get("dream_dreamed", 0) for t in group) == 3
    assert sum(t.info.get("dream_read", 0) for t in group) == 30
    assert sum(t.info.get("dream_written", 0) for t in group) == 9
    assert all(t.info["policy_read"] > 0 for t in group)


def test_a_dream_is_not_asked_about_an_answer_without_an_action(chat: ChatFormat) -> None:
    """It is shared by the group as if the turn had not been, and the turn counts for the end of the episode."""
    task, world, memo = Task("t", "e", "goal", first_state="start"), Dreamer(), {}
    policy = PolicyConfig(format="react")

    async def one(answers: list[str]) -> Trajectory:
        env = DreamEnvironment(world, 3, 5, memo)  # type: ignore[arg-type]
        return await play(EpisodeSpec("e", task, 0, 1.0), env, Script(chat, answers), chat, policy)

    first = asyncio.run(one(["Action: take coin", "Action: move east", "Action: move east"]))
    second = asyncio.run(one(["hm", "Action: take coin", "Action: move east"]))
    assert world.asked == 3
    assert second.info.get("dream_dreamed", 0) == 0
    assert [s.action for s in second.steps] == ["", "take coin", "move east"]
    assert [s.state for s in second.steps] == ["start", "start", "seen"]
    assert first.truncated and second.truncated


def test_an_episode_that_cannot_begin_is_no_episode(chat: ChatFormat) -> None:
    """Its first prompt does not fit: a fault, and no reward of 0."""
    task = Task("t", "e", "goal", first_state="start")
    env = DreamEnvironment(Dreamer(), 3, 5)  # type: ignore[arg-type]
    t = asyncio.run(play(EpisodeSpec("e", task, 0, 1.0), env, Script(chat, []), chat, PLAIN))
    assert (t.status, t.error) == ("env_failed", "the policy cannot begin: the context is full")


@pytest.mark.parametrize(("above", "success"), [(0.0, True), (0.5, False)])
def test_a_dream_is_won_above_what_the_environment_asks_for(chat: ChatFormat, above: float, success: bool) -> None:
    class Shop(Dreamer):
        async def step(self, query: DreamQuery) -> DreamAnswer:
            return DreamAnswer(state="home", reward=0.5, done=True, transcript=[1])

    task = Task("t", "e", "goal", first_state="start")
    env = DreamEnvironment(Shop(), 3, 5, success_above=above)  # type: ignore[arg-type]
    t = asyncio.run(play(EpisodeSpec("e", task, 0, 1.0), env, Script(chat, ["buy"]), chat, PLAIN))
    assert (t.total_reward, t.success) == (0.5, success)


class Forgetful(Dreamer):
    """A dream whose context window is full at the third step."""

    async def step(self, query: DreamQuery) -> DreamAnswer:
        answer = await super().step(query)
        return DreamAnswer(context_full=True, error="the window is full") if self.asked == 3 else answer


def test_a_step_that_the_dream_has_no_room_for_is_none(chat: ChatFormat) -> None:
    """Neither a transition that nobody dreamed, nor a sampled turn without one."""
    task, actions = Task("t", "e", "goal", first_state="start"), ["move north", "take coin", "move east"]
    env = DreamEnvironment(Forgetful(), 9, 5)  # type: ignore[arg-type]
    t = asyncio.run(play(EpisodeSpec("e", task, 0, 1.0), env, Script(chat, actions), chat, PLAIN))
    assert (t.status, t.truncated, t.success) == ("ok", True, False)
    assert [s.action for s in t.steps] == actions[:2]
    sampled = [i for i, m in zip(t.samples[0].ids, t.samples[0].mask, strict=True) if m]
    assert sampled == chat.answer(actions[0]) + chat.answer(actions[1])


class Jury:
    """A dream whose answers to one step differ with the demonstrations: the n-th best solve the task or not."""

    def __init__(self, verdicts: str) -> None:
        self.verdicts = verdicts  # y: solved, n: not, d: done without a reward, ?: not readable, e: the replica fails
        self.queries: list[DreamQuery] = []

    async def step(self, query: DreamQuery) -> DreamAnswer:
        self.queries.append(query)
        verdict = self.verdicts[query.skip_demos]
        if verdict == "e":
            raise EngineError("a replica died.")
        return DreamAnswer(
            state=f"{verdict}{query.skip_demos}",
            reward=float(verdict == "y"),
            done=verdict in "yd",
            transcript=[query.skip_demos],
            error="no step" if verdict == "?" else "",
            read=10,
            written=3,
        )


def judged(chat: ChatFormat, verdicts: str, votes: int) -> tuple[Jury, list[Trajectory]]:
    """Two episodes of a group that act alike, for one step."""
    world, memo = Jury(verdicts), {}

    async def one(name: str) -> Trajectory:
        env = DreamEnvironment(world, 1, 5, memo, name, votes)  # type: ignore[arg-type]
        task = Task("t", "e", "goal", first_state="start")
        return await play(EpisodeSpec(name, task, 0, 1.0), env, Script(chat, ["put coin"]), chat, PLAIN)

    async def group() -> list[Trajectory]:
        return await asyncio.gather(one("a"), one("b"))

    return world, asyncio.run(group())


@pytest.mark.parametrize(
    ("verdicts", "stands", "state"),
    [
        ("yyy", True, "y0"),
        ("yyn", True, "y0"),
        ("yny", True, "y0"),
        ("ynn", False, "n1"),
        ("ynd", False, "n1"),
        ("ydn", False, "d1"),
        ("yn", False, "n1"),
        ("yn?", False, "n1"),
        ("yy?", True, "y0"),
        ("y??", True, "y0"),
        ("yynn", False, "n2"),
        ("yyynn", True, "y0"),
    ],
)
def test_a_success_stands_where_more_than_half_of_the_answers_say_so(
    chat: ChatFormat, verdicts: str, stands: bool, state: str
) -> None:
    world, group = judged(chat, verdicts, len(verdicts) - 1)
    assert [q.skip_demos for q in world.queries] == list(range(len(verdicts)))
    assert len({q.seed for q in world.queries}) == len(verdicts)
    for t in group:
        assert (t.success, t.total_reward, t.steps[0].next_state) == (stands, float(stands), state)
    told = {name: sum(t.info.get(f"dream_{name}", 0) for t in group) for name in ("read", "written", "dreamed")}
    assert told == {"read": 10 * len(verdicts), "written": 3 * len(verdicts), "dreamed": 1}
    assert sum(t.info.get("dream_overruled", 0) for t in group) == (not stands)


@pytest.mark.parametrize(("verdicts", "votes"), [("n", 3), ("d", 3), ("y", 0)])
def test_nothing_else_is_asked_again(chat: ChatFormat, verdicts: str, votes: int) -> None:
    world, group = judged(chat, verdicts, votes)
    assert len(world.queries) == 1
    assert group[0].success == (verdicts == "y")


def test_a_vote_that_does_not_come_is_env_failed(chat: ChatFormat) -> None:
    _, group = judged(chat, "ye", 1)
    assert {t.status for t in group} == {"env_failed"}


def test_a_full_context_truncates_the_episode(task: Task, chat: ChatFormat) -> None:
    t = played(task, Script(chat, ["move north"]), chat)
    assert (t.status, t.truncated, len(t.steps)) == ("ok", True, 1)


def test_a_task_that_the_environment_cannot_start_is_env_failed(chat: ChatFormat) -> None:
    with pytest.raises(Exception, match="payload"):
        played(Task("g", "mapreader", "a has coin b has box", origin="generated"), Script(chat, []), chat)
