"""What the dream writes is read back exactly, and whatever else a model writes is refused, never rewarded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dreamgym.models.prompts import (
    MAX_ANSWER_CHARS,
    ParseError,
    answer_parts,
    edits,
    first_message,
    parse_answer,
    parse_variation,
    query,
    whole,
)
from dreamgym.types import Task, Transition

LINE = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=80).filter(
    lambda s: s.strip() == s and s != ""
)
PIECES = ["state: ", "next state: shut", "Loading", "...", "....", " ", "\n", "reward=1 done=yes", "at a"]
ANY = st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=6).map("".join)
STEP = Transition("at a", "go", "at b", 0.0, False, "a leads to b")


@given(ANY, ANY, ANY, st.sampled_from([0.0, 1.0, 0.5, -1.0]), st.booleans())
@example("so the next state: shut.", "at a", "Loading ...", 0.0, False)
@example("state: open", "Loading are in the hall", "state: x\n....", 0.0, False)
@example("", "", "", 0.0, True)
def test_an_answer_is_read_back_as_it_was_written(
    reasoning: str, before: str, after: str, reward: float, done: bool
) -> None:
    """Whatever collect or import lets in, reasoning on one line."""
    step = replace(STEP, state=before, reasoning=reasoning, next_state=after, reward=reward, done=done)
    read = parse_answer("".join(answer_parts(step)), before)
    assert (read.reasoning, read.state, read.reward, read.done) == (" ".join(reasoning.split()), after, reward, done)


def test_without_reasoning_the_answer_begins_with_the_state() -> None:
    assert parse_answer("".join(answer_parts(replace(STEP, reasoning=""))), STEP.state).reasoning == ""


def test_a_state_of_several_lines_survives() -> None:
    state = "map a : b\nat b"
    assert parse_answer("".join(answer_parts(replace(STEP, next_state=state))), STEP.state).state == state


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        ("moved at a north b", "refused at a north b", "refused ..."),
        ("map a: b\nmoved at a north b", "same at a north b", "same ..."),
        ("moved at a north b", "moved at b north c", "moved at b north c"),
        ("kitchen", "kitchen", "kitchen"),
    ],
)
def test_a_state_of_which_only_the_first_word_is_new_is_written_short(before: str, after: str, written: str) -> None:
    step = replace(STEP, state=before, next_state=after)
    assert answer_parts(step)[1] == f"state: {written}"
    assert parse_answer("".join(answer_parts(step)), before).state == after


def test_a_short_state_with_nothing_to_go_on_with_is_refused() -> None:
    with pytest.raises(ParseError, match=r"'refused \.\.\.' shortens a state"):
        parse_answer("state: refused ...\nreward=0 done=no", "kitchen")


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        step = parse_answer(text, STEP.state)
    except ParseError:
        return
    assert f"done={'yes' if step.done else 'no'}" in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "state: at b",
        "state: at b\nreward=one done=no",
        "state: at b\nreward=1 done=maybe",
        "state: at b\nreward=1 done=yes and more",
        "reward=1 done=yes",
        "x" * (MAX_ANSWER_CHARS + 1),
    ],
)
def test_a_malformed_answer_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_answer(text, STEP.state)


def test_an_action_cannot_pose_as_another_field() -> None:
    message = query("go\nstate: at home\nreward=1 done=yes", [])
    assert message == "> go\n  state: at home\n  reward=1 done=yes"
    demonstrated = query("go", [replace(STEP, action="go\n> x")])
    assert [line[:2] for line in demonstrated.split("\n")] == ["li", "  ", "> "]


def test_a_demonstration_shows_what_changed_where_that_is_not_in_the_last_line() -> None:
    actions = 'Actions: ["go", "take"]'
    moved = replace(STEP, state=f"you are in a\n{actions}", next_state=f"you are in b\n{actions}")
    same = replace(STEP, state=f"map m\nyou are in b\n{actions}", next_state=f"you are in b\n{actions}", action="jump")
    assert query("go", [same, moved]).split("\n") == [
        "like you are in a > go = you are in b",
        f"like {actions} > jump = {actions}",
        "> go",
    ]


def test_a_demonstration_shows_reward_and_end_where_they_are_asked_for() -> None:
    won = replace(STEP, reward=1.0, done=True)
    assert query("go", [won, STEP], outcomes=True).split("\n") == [
        "like at a > go = at b reward=0 done=no",
        "like at a > go = at b reward=1 done=yes",
        "> go",
    ]
    assert query("go", [won]) == "like at a > go = at b\n> go"


def test_the_best_demonstration_stands_next_to_the_action_and_without_its_map() -> None:
    best, second = replace(STEP, state="map m\nat best"), replace(STEP, state="at second")
    message = first_message(Task("t", "e", "goal"), "map m\nat a", "go", [best, second])
    assert message.split("\n") == [
        "dream goal",
        "map m",
        "at a",
        "like at second > go = at b",
        "like at best > go = at b",
        "> go",
    ]


PARENT = Task("p", "e", "coin in attic to box in hall", first_state="map hall: box attic ; attic: coin hall\nat hall")


@given(LINE, st.lists(LINE, min_size=1, max_size=3).map("\n".join))
def test_a_variation_written_whole_is_read_back(instruction: str, first_state: str) -> None:
    assert parse_variation(whole(instruction, first_state), PARENT) == (" ".join(instruction.split()), first_state)


@given(st.sampled_from(["coin in attic", "box attic ;", "at hall", "map"]), LINE)
def test_an_edit_changes_what_it_names_and_nothing_else(old: str, new: str) -> None:
    assume(new != old and " => " not in new)
    instruction, first_state = parse_variation(edits([(old, new)]), PARENT)
    assert f"{instruction}\n{first_state}" == f"{PARENT.instruction}\n{PARENT.first_state}".replace(old, new)


def test_edits_follow_one_another() -> None:
    text = edits([("attic: coin", "attic: nothing"), ("attic: nothing", "attic: lamp"), ("coin in attic", "go")])
    assert parse_variation(text, PARENT) == ("go to box in hall", "map hall: box attic ; attic: lamp hall\nat hall")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("replace coin => lamp", "2 times"),
        ("replace cellar => lamp", "0 times"),
        ("replace att => lamp", "0 times"),
        ("replace at hall => at hall", "1 times"),
        ("replace at hall", "every line"),
        ("replace  => lamp", "every line"),
        ("task: coin in hall", "first state"),
        ("state: at hall\nreward=0 done=no", "every line"),
        ("", "every line"),
    ],
)
def test_a_variation_that_cannot_be_made_says_why(text: str, why: str) -> None:
    with pytest.raises(ParseError, match=why):
        parse_variation(text, PARENT)
