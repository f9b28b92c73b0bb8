"""What the policy reads at each turn, whatever it keeps of the turns before."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.config import PolicyConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import ConfigError
from dreamgym.models.chat import ChatFormat
from dreamgym.models.conversation import Conversation
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.types import Task, Transition

CHAT = ChatFormat(
    train_tokenizer(["go north south east west at hall attic cellar kitchen > = map a: b"] * 8, 320, 1024)
)
TASK = Task("t", "e", "find the coin")
FIRST = "map a: b\nat 0"


def policy(**fields: Any) -> PolicyConfig:
    return PolicyConfig.model_validate(fields)


def steps(count: int) -> list[Transition]:
    states = [FIRST, *(f"at {n}" for n in range(1, count + 1))]
    return [Transition(states[n], f"go {n}", states[n + 1], 0.0, False) for n in range(count)]


def prompts(config: PolicyConfig, taken: list[Transition]) -> tuple[list[list[int]], Conversation]:
    """What is read at each turn of an episode that goes like this; the last turn is not answered."""
    talk = Conversation(CHAT, config, TASK, FIRST)
    read = [list(talk.prompt)]
    for step in taken:
        ids = CHAT.answer(step.answer or step.action)
        talk.sampled(ids, [-0.5] * len(ids), [3] * len(ids), ended=True)
        talk.observed([step])
        read.append(list(talk.prompt))
    return read, talk


def conversation(*turns: tuple[str, str]) -> list[int]:
    return CHAT.start([{"role": role, "content": content} for role, content in turns])


def test_all_is_read_and_the_one_sample_only_grows() -> None:
    read, talk = prompts(policy(), steps(3))
    assert len(talk.samples) == 1
    assert all(later[: len(before)] == before for before, later in pairwise(read))
    said = [("user", f"find the coin\n{FIRST}")]
    for step in steps(3):
        said += [("assistant", step.action), ("user", step.next_state)]
    assert read[-1] == conversation(*said)


def test_of_a_window_the_last_turns_are_whole_and_earlier_ones_are_lines() -> None:
    read, talk = prompts(policy(context="window", context_turns=2), steps(4))
    grown, _ = prompts(policy(), steps(4))
    assert read[:3] == grown[:3], "nothing is cut as long as the window holds all"
    head = "find the coin\nmap a: b\n> go 0 = at 1\n> go 1 = at 2\nat 2"
    whole = [("assistant", "go 2"), ("user", "at 3"), ("assistant", "go 3"), ("user", "at 4")]
    assert read[4] == conversation(("user", head), *whole)
    assert len(talk.samples) == 3


def test_of_steps_each_turn_is_a_sample_with_the_state_and_a_line_for_each_turn() -> None:
    read, talk = prompts(policy(context="steps"), steps(2))
    assert read[2] == conversation(("user", "find the coin\nmap a: b\n> go 0 = at 1\n> go 1 = at 2\nat 2"))
    assert [sum(sample.mask) > 0 for sample in talk.samples] == [True, True, False]


@pytest.mark.parametrize("context", ["grow", "window", "steps"])
@given(count=st.integers(0, 7), turns=st.integers(1, 3), malformed=st.integers(0, 7))
def test_every_sampled_token_is_in_one_sample_behind_what_the_engine_read(
    context: str, count: int, turns: int, malformed: int
) -> None:
    taken = steps(count)
    if malformed < count:
        step = taken[malformed]
        taken[malformed] = Transition(step.state, "", "Act!", 0.0, False, answer="hm", malformed="no_action")
    read, talk = prompts(policy(context=context, context_turns=turns), taken)
    sampled = [i for s in talk.samples for i, m in zip(s.ids, s.mask, strict=True) if m]
    assert sampled == [i for step in taken for i in CHAT.answer(step.answer or step.action)]
    begins = [
        sample.ids[:place]
        for sample in talk.samples
        for place, m in enumerate(sample.mask)
        if m and not sample.mask[place - 1]
    ]
    assert begins == read[:-1]
    assert read[-1] == talk.samples[-1].ids


def test_a_turn_in_which_nothing_was_done_shows_the_state_and_the_sentence() -> None:
    nothing = Transition("at 1", "", "Act!", 0.0, False, answer="hm", malformed="no_action")
    read, _ = prompts(policy(context="steps"), [steps(1)[0], nothing])
    assert read[-1] == conversation(
        ("user", "find the coin\nmap a: b\n> go 0 = at 1\n> (nothing was done)\nAct!\nat 1")
    )


@pytest.mark.parametrize("context", ["window", "steps"])
def test_where_the_window_of_the_engine_is_full_the_oldest_lines_go_first(context: str) -> None:
    config = policy(context=context, context_turns=2, engine={"max_model_len": 160}, sampling={"max_tokens": 12})
    read, _ = prompts(config, steps(40))
    assert max(map(len, read)) <= 160 - 12
    last = CHAT.tokenizer.decode(read[-1])
    assert "earlier turns)" in last and "at 40" in last and "map a: b" in last


def test_a_long_turn_is_a_short_line() -> None:
    long = Transition(FIRST, "say " + "word " * 500, "done " * 500, 0.0, False)
    read, _ = prompts(policy(context="steps"), [long, Transition(long.next_state, "go", "at 1", 0.0, False)])
    assert max(len(line) for line in CHAT.tokenizer.decode(read[-1]).split("\n")) <= 200


def test_a_critic_needs_whole_episodes() -> None:
    with pytest.raises(ConfigError, match=r"policy.context=steps cuts an episode in samples, and ppo needs it whole"):
        load_config(None, ["policy.context=steps", "learner.algorithm=ppo"])


def test_an_environment_may_tell_earlier_turns_by_lines_of_its_own() -> None:
    talk = Conversation(CHAT, policy(context="steps"), TASK, FIRST, lambda step: f"{step.action}\nled on")
    for step in steps(2):
        ids = CHAT.answer(step.action)
        talk.sampled(ids, [0.0] * len(ids), [0] * len(ids), ended=True)
        talk.observed([step])
    head = "find the coin\nmap a: b\n> go 0 led on\n> go 1 led on\nat 2"
    assert talk.prompt == conversation(("user", head))
