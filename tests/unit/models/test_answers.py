"""Answers of the policy: what each format writes it reads back, and what is no action is told apart by kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.models.answers import FORMATS, MALFORMED, Answer

KINDS = [
    ("plain", "  go to desk 1\n", Answer("  go to desk 1\n", "", "go to desk 1")),
    ("plain", "", Answer("")),
    ("plain", 'write {"a":\n  [1,  2]}', Answer('write {"a":\n  [1,  2]}', "", 'write {"a":\n  [1,  2]}')),
    ("react", "Thought: a lamp\nis near.\nAction: go to desk 1", ("a lamp\nis near.", "go to desk 1", "")),
    ("react", "Action: look", ("", "look", "")),
    ("react", "I see it.\n  Action:\ndef f():\n    return 1\n", ("I see it.", "def f():\n    return 1", "")),
    ("react", "Thought: " + "because " * 80 + "\nAction: look", (("because " * 80).strip(), "look", "")),
    ("react", "Thought: what Action: may I take", ("what Action: may I take", "", "no_action")),
    ("react", "Thought: nothing\nAction:  ", ("nothing", "", "no_action")),
    ("react", "go north", ("go north", "", "no_action")),
    ("react", "Action: look\nObservation: a lamp\nAction: take it", ("", "", "several_actions")),
    ("tags", "<think>a lamp</think><action>look</action>", ("a lamp", "look", "")),
    ("tags", "\n<think>\na <b>\n</think>\n<action>\nf(\n  1)\n</action>\n", ("a <b>", "f(\n  1)", "")),
    ("tags", "<action>look</action>", ("", "look", "")),
    ("tags", "<think>look", ("", "", "no_action")),
    ("tags", "<think>a</think><action> </action>", ("a", "", "no_action")),
    ("tags", "<action>look</action><action>go</action>", ("", "", "several_actions")),
    ("tags", "<think>a</think>so <action>look</action>", ("a", "", "stray_text")),
    ("tags", "<action>look</action> I hope", ("", "", "stray_text")),
]


@pytest.mark.parametrize(("name", "text", "expected"), KINDS)
def test_an_answer_is_taken_apart_by_its_format(name: str, text: str, expected: Answer | tuple[str, str, str]) -> None:
    assert FORMATS[name].parse(text) == (expected if isinstance(expected, Answer) else Answer(text, *expected))


@given(st.sampled_from(sorted(FORMATS)), st.text())
def test_no_answer_fails_and_what_is_malformed_is_never_acted_on(name: str, text: str) -> None:
    found = FORMATS[name].parse(text)
    assert found.text == text
    assert not found.malformed or (found.action == "" and found.malformed in MALFORMED)
    assert found.thought in text and found.action in text


WORDS = st.lists(
    st.sampled_from(
        ["go", "north", "\n", " ", "Action:", "Thought:", "Observation:", "<think>", "</think>", "<action>"]
    ),
    max_size=6,
).map("".join)


@given(st.sampled_from(["react", "tags"]), WORDS, WORDS)
def test_what_is_written_is_read_back_or_known_not_to_be(name: str, thought: str, action: str) -> None:
    known = FORMATS[name]
    found = known.parse(known.write(thought.strip(), action.strip()))
    same = (found.thought, found.action, found.malformed) == (thought.strip(), action.strip(), "")
    assert known.holds(thought.strip(), action.strip()) == same
    plain = not any(mark in thought + action for mark in (":", "<"))
    assert same or not plain or not action.strip()


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_answer_that_was_cut_off_is_never_acted_on(name: str) -> None:
    whole = FORMATS[name].write("a lamp", "look")
    cut = FORMATS[name].read(whole, finished=False)
    assert (cut.action, cut.malformed) == ("", "unfinished")
    assert FORMATS[name].read(whole, finished=True).action == "look"


@pytest.mark.parametrize("kind", sorted(MALFORMED))
def test_the_policy_is_told_what_was_wrong_and_what_to_write(kind: str) -> None:
    told = {name: known.refusal(kind) for name, known in FORMATS.items()}
    assert all(MALFORMED[kind] in sentence for sentence in told.values())
    assert "Action:" in told["react"] and "</action>" in told["tags"]
