"""Thoughts, actions and calls of families that write them in channels, held against their own templates."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.models.answers import FORMATS
from dreamgym.models.answers.calls import Call
from dreamgym.models.chat import DAY, ChatFormat
from dreamgym.models.turns import Turns
from dreamgym.types import Transition

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from templates import APART, TOOLS, judged, stand_in, text_templates

TEMPLATES = dict(text_templates())
FIELDS = {"gptoss": "thinking", **dict.fromkeys(("muse_glimmer", "gemma4_v5", "qwen3_8"), "reasoning_content")}
"""A template of each family that does not look for thoughts in the content, and where it does."""
CHANNELS = [name for name in FIELDS if name != "qwen3_8"]
LOOK = Call("look", {})
HEADERS = [
    " to=functions.look<|channel|>commentary json<|message|>",
    "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
    " to=functions.look<|channel|>commentary <|constrain|>json<|message|>",
    "<|channel|>analysis to=functions.look json<|message|>",
]
THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@cache
def chat_of(name: str, tools: bool = False) -> ChatFormat:
    return ChatFormat(stand_in(name, TEMPLATES[name]), forks=True, tools=TOOLS if tools else ())


def sampled(chat: ChatFormat, text: str) -> list[int]:
    return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_benchmark_knows_the_same_families() -> None:
    assert all(any(name.startswith(known) for known in APART) for name in FIELDS)


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("thought", ["The key\nis up.", ""])
def test_an_answer_is_written_as_the_template_writes_a_last_turn(name: str, thought: str) -> None:
    chat = chat_of(name)
    answer = FORMATS["native"].write(thought, "go up\n  now")
    ids = chat.answer(answer)
    user = {"role": "user", "content": "hi"}
    said = {"role": "assistant", "content": "go up\n  now"} | ({FIELDS[name]: thought} if thought else {})
    whole = chat.tokenizer.apply_chat_template([user, said], tokenize=False, strftime_now=DAY.strftime)
    expected = sampled(chat, whole)
    assert expected[: len(chat.start([user])) + len(ids)] == chat.start([user]) + ids
    found = Turns(chat, "native").read(ids, finished=True)
    assert (found.thought, found.action, found.malformed) == (thought, "go up\n  now", "")
    assert found.text == answer


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.startswith(tuple(FIELDS))])
def test_conversations_with_thoughts_and_calls_are_what_the_template_renders(name: str) -> None:
    found = judged(name, TEMPLATES[name])
    assert found["way"] != "refused" and found["calls"].startswith("as marked")


HOSTILE = st.lists(
    st.sampled_from(["<|end|>", "<|start|>", "<|message|>", "<|eom|>", "<|eot|>", "<channel|>", "<turn|>", "\n", "a"]),
    max_size=6,
).map("".join)


@settings(deadline=None, max_examples=30)
@given(HOSTILE, HOSTILE)
@pytest.mark.parametrize("name", CHANNELS)
def test_neither_thought_nor_action_can_begin_another_message(name: str, thought: str, action: str) -> None:
    chat = chat_of(name)
    marks = set(chat.tokenizer.all_special_ids)
    text, harmless = (FORMATS["native"].write(f"x{t}x", f"x{a}x") for t, a in ((thought, action), ("", "")))
    ids, starts = chat.written(text)
    assert [i for i in ids if i in marks] == [i for i in chat.answer(harmless) if i in marks]
    assert starts == sorted(starts) and starts[-1] == len(text) and len(starts) == len(ids)


@pytest.mark.parametrize(
    ("text", "thought", "action", "malformed"),
    [
        (f"{THOUGHT}<|channel|>final<|message|>go up<|return|>", "Hm.", "go up", ""),
        (f"{THOUGHT}{THOUGHT}<|channel|>final<|message|>go up<|return|>", "Hm.\nHm.", "go up", ""),
        ("<|channel|>commentary<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>go", "Hm.", "go", ""),
        (f"{THOUGHT}<|return|>", "Hm.", "", "no_action"),
        ("<|channel|>analysis<|message|>Hm.<|return|>", "Hm.", "", "no_action"),
        ("go up<|return|>", "go up", "", "no_action"),
        (f"{HEADERS[0]}{{}}<|call|>", None, "", "no_action"),
        (f"<|channel|>final<|message|>go<|end|><|start|>assistant{HEADERS[0]}", "", "", "several_actions"),
        (
            f"{THOUGHT}<|channel|>final<|message|>a<|end|><|start|>assistant<|channel|>final",
            "Hm.",
            "",
            "several_actions",
        ),
    ],
)
def test_what_gpt_oss_says_beside_one_final_message_is_no_action(
    text: str, thought: str | None, action: str, malformed: str
) -> None:
    chat = chat_of("gptoss")
    found = Turns(chat, "native").read(sampled(chat, text), finished=True)
    assert (found.action, found.malformed) == (action, malformed)
    assert thought is None or found.thought == thought


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("thought", [THOUGHT, ""])
def test_calls_of_gpt_oss_are_read_however_their_header_is_ordered(header: str, thought: str) -> None:
    chat = chat_of("gptoss", tools=True)
    found = Turns(chat, "native").read(sampled(chat, f"{thought}{header}{{}}<|call|>"), finished=True)
    assert (found.calls, found.thought, found.malformed) == ((LOOK,), "Hm." if thought else "", "")


def test_an_answer_of_gpt_oss_that_calls_nothing_says_so() -> None:
    chat = chat_of("gptoss", tools=True)
    for text in ("<|channel|>final<|message|>to=functions.look{}<|return|>", f"{THOUGHT}<|return|>"):
        assert Turns(chat, "native").read(sampled(chat, text), finished=True).malformed == "no_call"
    broken = f"{THOUGHT}{HEADERS[0]}{{<|call|>"
    assert Turns(chat, "native").read(sampled(chat, broken), finished=True).malformed == "unreadable_call"


@pytest.mark.parametrize("name", CHANNELS)
def test_demonstrated_calls_with_thoughts_are_read_back(name: str) -> None:
    turns = Turns(chat_of(name, tools=True), "native")
    step = Transition("", Call("take", {"thing": "a key", "hands": 2}).text, "", 0.0, False, thought="Hm.\nYes.")
    assert turns.holds([step])


def test_tags_stay_text_in_a_family_with_channels() -> None:
    chat = chat_of("gptoss")
    text = FORMATS["tags"].write("Hm.", "go up")
    assert chat.tokenizer.decode(chat.answer(text)) == f"<|channel|>final<|message|>{text}<|return|>"
    found = Turns(chat, "tags").read(chat.answer(text), finished=True)
    assert (found.thought, found.action) == ("Hm.", "go up")


@pytest.mark.parametrize("name", ["gptoss", "muse_glimmer", "llama3_2"])
def test_no_template_asks_the_clock(name: str) -> None:
    text = chat_of(name).tokenizer.decode(chat_of(name).start([{"role": "user", "content": "hi"}]))
    assert "2024-07-26" in text or "26 Jul 2024" in text
