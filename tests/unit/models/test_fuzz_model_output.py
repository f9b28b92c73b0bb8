"""Whatever a model writes is read or refused, in time that grows with its length alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.models import prompts
from dreamgym.models.prompts import MAX_ANSWER_CHARS, ParseError, answer_parts, parse_answer, parse_text
from dreamgym.types import MAX_REWARD, Transition

FRAGMENTS = [
    "state: ",
    "state:",
    "\nstate: ",
    "\nreward=",
    "reward=",
    " done=yes",
    " done=no",
    "\n",
    " ",
    "1",
    "-",
    ".",
]
FRAGMENTS += [".", "e9", "9" * 30, "nan", "inf", "...", "moved ...", "at b", "١", "\x00", "\u2028", "🗝", "<script>"]
PIECES = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=20)
STEP = Transition("moved at a", "go", "at b", 0.0, False, "a leads to b")


@given(PIECES, st.integers(1, 40), st.sampled_from(["moved at a", "kitchen", "", "map\nat a"]))
def test_pieces_of_the_format_in_any_order_are_read_or_refused(pieces: list[str], times: int, before: str) -> None:
    text = "".join(pieces) * times
    try:
        step = parse_answer(text, before)
    except ParseError:
        return
    assert math.isfinite(np.float32(step.reward))
    assert len(text) <= MAX_ANSWER_CHARS


@given(PIECES)
def test_a_well_formed_end_is_always_read(pieces: list[str]) -> None:
    """The outcome is the last one, and the state begins where the word stands first."""
    step = parse_answer(f"why\nstate: at {''.join(pieces)} c\nreward=0.5 done=yes\n", "moved at a")
    assert (step.reasoning, step.reward, step.done) == ("why", 0.5, True)
    assert step.state.startswith("at ") and step.state.endswith(" c")


@given(st.floats(-MAX_REWARD, MAX_REWARD))
def test_every_reward_that_can_be_recorded_can_be_dreamed(reward: float) -> None:
    read = parse_answer("".join(answer_parts(replace(STEP, reward=reward))), STEP.state)
    assert read.reward == float(f"{reward:g}")


@pytest.mark.parametrize("reward", ["9" * 40, "1e39", "-1e99", "nan", "inf", "1e999", "1" * 5000, "١", "0x1", ""])
def test_a_reward_that_is_no_float32_is_refused(reward: str) -> None:
    with pytest.raises(ParseError):
        parse_answer(f"state: at b\nreward={reward} done=no", STEP.state)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", ["state: ", "\nstate: ", "state: a\nreward=1 done=yes", "\nreward=1", "\n", " ", "9"])
def test_a_long_answer_costs_no_more_than_its_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 million characters, in a moment; what grew with their square would not end."""
    monkeypatch.setattr(prompts, "MAX_ANSWER_CHARS", 10**7)
    text = (f"state: x\nreward=1 done=yes{unit * 10**7}")[: 10**7]
    with pytest.raises(ParseError):
        parse_answer(text[:-1] + "!", "at a")


@given(st.text() | PIECES.map("".join))
def test_a_free_text_is_not_empty_and_not_endless(text: str) -> None:
    try:
        read = parse_text(text, "the instruction")
    except ParseError:
        assert not text.strip() or len(text) > MAX_ANSWER_CHARS
    else:
        assert read == text.strip()
