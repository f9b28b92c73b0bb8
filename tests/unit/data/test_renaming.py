"""Episodes with other names: what was alike stays alike, what everyone says stays, and nothing else changes."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dreamgym.data.renaming import Names
from dreamgym.types import Task, Trajectory, Transition


def login(index: int, user: str, password: str) -> Trajectory:
    first = f"16 textbox user\n19 textbox password\n20 button Login of {user}"
    task = Task(f"login-{index}", "browsergym", f'Enter "{user}" and "{password}" as the 2nd.', "{}", first)
    filled = first.replace("textbox user", f"textbox user = {user}")
    steps = [
        Transition(first, f"fill('16', '{user}')", filled, 0.0, False, f"fill user: {user}", thought=f"user is {user}"),
        Transition(filled, f"fill('19', '{password}')", filled, 1.0, True, "fill password: solved"),
    ]
    return Trajectory(f"t{index}", task, "expert", "real", steps, success=True)


def corpus() -> list[Trajectory]:
    letters = "abcdefghij"
    users = [f"x{a}{b}{a}y" for a in letters for b in letters[:4]]
    return [login(i, user, f"K{user[1:3]}7") for i, user in enumerate(users)]


def texts(t: Trajectory) -> list[str]:
    steps = [
        text for s in t.steps for text in (s.state, s.action, s.next_state, s.reasoning, s.expert_action, s.thought)
    ]
    return [t.task.instruction, t.task.first_state, *steps]


def words(t: Trajectory) -> list[str]:
    return [word for text in texts(t) for word in re.findall(r"\w+|\W", text)]


@given(st.integers(0, 39), st.integers())
def test_the_same_name_everywhere_of_the_same_length_and_no_other_word(index: int, seed: int) -> None:
    trajectories = corpus()
    before = trajectories[index]
    after = Names(trajectories).renamed(before, random.Random(seed))
    pairs = set(zip(words(before), words(after), strict=True))
    assert len({old for old, _ in pairs}) == len({new for _, new in pairs}) == len(pairs), "one to one"
    user, password = re.findall(r'"(\w+)"', before.task.instruction)
    changed = {old for old, new in pairs if old != new}
    assert changed <= {user, password} and changed
    assert all(len(old) == len(new) and old.isalpha() == new.isalpha() for old, new in pairs)
    blank = [replace(s, state="", action="", next_state="", reasoning="", thought="") for s in before.steps]
    assert blank == [replace(s, state="", action="", next_state="", reasoning="", thought="") for s in after.steps]
    assert after == replace(before, task=after.task, steps=after.steps)


def test_a_name_that_is_a_part_of_another_keeps_its_own() -> None:
    trajectories = corpus()
    t = trajectories[0]
    t = replace(t, task=replace(t.task, instruction='Enter what begins with "Ti".', first_state="14 option Timor"))
    after = Names([*trajectories[1:], t]).renamed(t, random.Random(0))
    assert '"Ti"' in after.task.instruction and after.task.first_state.endswith(" Timor")


def test_what_most_tasks_say_is_no_name() -> None:
    names = Names(corpus())
    assert {"xaaay", "Kaa7"} <= names.rare
    assert not names.rare & {"Enter", "textbox", "Login", "user", "2nd", "16"}
