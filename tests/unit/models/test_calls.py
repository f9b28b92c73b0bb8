"""Calls of tools: as JSON, held against their schemas, and as chat templates mark them."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.errors import EnvError, ModelError
from dreamgym.models.answers.calls import Call, CallError, check_tools, misfit, read_call, read_calls
from dreamgym.models.answers.template_calls import ALL, kinds_in
from dreamgym.models.chat import ChatFormat
from dreamgym.models.turns import Turns
from dreamgym.types import Transition

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from templates import TOOLS, stand_in, text_templates

TEMPLATES = dict(text_templates())
GO = {
    "name": "go",
    "description": "Walk.",
    "parameters": {
        "type": "object",
        "properties": {"to": {"enum": ["attic", "hall"]}, "steps": {"type": "array", "items": {"type": "integer"}}},
        "required": ["to"],
    },
}
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)


@given(ARGUMENTS)
def test_a_call_is_read_back_as_it_was_written(arguments: dict[str, Any]) -> None:
    call = Call("go", arguments)
    assert read_call(call.text) == call and "\n" not in call.text
    assert read_calls(f"{call.text}\n\n{call.text}") == [call, call]


def test_a_call_may_take_several_lines_and_need_no_arguments() -> None:
    assert read_calls('{"name": "go",\n "arguments": {}}') == [Call("go", {})]
    assert read_call('{"name": "look"}') == Call("look", {})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("go up", "it is no JSON"),
        ("[1]", "no JSON object"),
        ('{"name": 3}', "no JSON object"),
        ('{"name": "go", "arguments": []}', "an object"),
        ('{"name": "go", "input": {}}', "nothing else"),
        ("[" * 100_000, "it is no JSON"),
        ('{"name": "go", "arguments": {"to": ' + "[" * 99 + "]" * 99 + "}}", "deeper than 64"),
        ('{"name": "go", "arguments": {"to": NaN}}', "too large, or none"),
        ('{"name": "go", "arguments": {"to": 1e400}}', "too large, or none"),
        ('{"name": "go", "arguments": {"to": 1' + "0" * 400 + "}}", "too large, or none"),
        ('{"name": "go", "arguments": {"to": "\\ud800"}}', "half a character"),
        ('{"name": "\\ud800"}', "half a character"),
    ],
)
def test_what_is_no_call_is_told_so(text: str, told: str) -> None:
    with pytest.raises(CallError, match=told):
        read_call(text)


def test_a_call_that_does_not_fit_is_told_where() -> None:
    assert misfit([GO], Call("go", {"to": "attic", "steps": [1, 2]})) == ""
    assert misfit([GO], Call("fly", {})) == "there is no tool 'fly', but go"
    assert misfit([GO], Call("go", {})) == "at go: 'to' is a required property"
    assert misfit([GO], Call("go", {"to": "moon"})) == "at go.to: 'moon' is not one of ['attic', 'hall']"
    assert misfit([GO], Call("go", {"to": "hall", "steps": [1, "x"]})) == "at go.steps[1]: 'x' is not of type 'integer'"
    assert len(misfit([GO], Call("go", {"to": "x" * 10_000}))) < 400


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ((tool for tool in ()), "no list but a generator"),
        ([{**GO, "parameters": {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}}], "do not define"),
        ([{**GO, "parameters": {"type": "object", "properties": {"a": {"$ref": "file:///b"}}}}], "do not define"),
        ([{"name": "go"}], "must have name, parameters"),
        ([{**GO, "name": "go up"}], "no word of letters"),
        ([{**GO, "parameters": {"type": "string"}}], "no JSON Schema of type object"),
        ([{**GO, "parameters": {"type": "object", "properties": {"a": {"type": "text"}}}}], "no JSON Schema"),
        ([GO, GO], "the same name"),
    ],
)
def test_tools_that_are_none_are_refused(tools: list[Any], told: str) -> None:
    with pytest.raises(EnvError, match=told):
        check_tools(tools, "env.name: 'mine'")


def test_a_schema_that_refers_to_itself_is_a_sentence_and_not_a_fault() -> None:
    endless = {**GO, "parameters": {"type": "object", "allOf": [{"$ref": "#"}]}}
    assert check_tools([endless], "mine")
    assert misfit([endless], Call("go", {})) == (
        "its arguments cannot be held against the schema of go (RecursionError)"
    )


def test_types_are_found_behind_references_and_choices() -> None:
    root = {"$defs": {"word": {"type": "string"}}}
    assert kinds_in({"$ref": "#/$defs/word"}, root) == {"string"}
    assert kinds_in({"anyOf": [{"$ref": "#/$defs/word"}, {"type": "null"}]}, root) == {"string", "null"}
    assert kinds_in({"enum": ["7", 7]}, root) == {"string", "integer", "number"}
    assert kinds_in({"const": True}, root) == {"boolean"}
    assert kinds_in({}, root) == kinds_in({"$ref": "#"}, {"$ref": "#"}) == ALL


@cache
def chat_of(name: str) -> ChatFormat:
    return ChatFormat(stand_in(name, TEMPLATES[name]), forks=True, tools=TOOLS)


def read_back(name: str, head: str, calls: list[Call]) -> tuple[str, list[Call]]:
    chat = chat_of(name)
    assert chat.calls is not None
    ids = chat.called(head, calls)
    assert ids[-1] in chat.stop_ids
    found, again = chat.calls.read(chat.decode(ids), chat.tools)
    return found.replace("<think>", "").replace("</think>", "").strip(), again


@settings(max_examples=40)
@given(st.lists(ARGUMENTS, min_size=1, max_size=3), st.sampled_from(["", "A thought."]))
@pytest.mark.parametrize("name", ["qwen3", "deepseekv3"])
def test_templates_that_write_json_return_any_arguments(name: str, given: list[dict[str, Any]], thought: str) -> None:
    calls = [Call("go", arguments) for arguments in given]
    assert read_back(name, f"<think>\n{thought}\n</think>\n\n" if thought else "", calls) == (thought, calls)


WORDS = st.text("abcXYZ 0123456789.-'\n", min_size=1, max_size=20).filter(lambda text: text == text.strip())


@settings(max_examples=40)
@given(st.lists(st.tuples(WORDS, st.integers(-9, 99)), min_size=1, max_size=3))
@pytest.mark.parametrize("name", ["qwen3_6", "glm4moe_training", "gemma4", "nemotron_3_nano"])
def test_templates_that_write_keys_and_values_return_texts_and_numbers(name: str, given: list[tuple[str, int]]) -> None:
    """`thing` is a text by its schema, whatever it looks like; `hands` is a number."""
    calls = [Call("take", {"hands": hands, "thing": thing}) for thing, hands in given] + [Call("look", {})]
    assert read_back(name, "", calls) == ("", calls)


NOTE = {
    "name": "note",
    "description": "",
    "parameters": {
        "type": "object",
        "properties": {"text": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "n": {"type": "integer"}, "any": {}},
    },
}


@pytest.mark.parametrize(
    "text", ["[note] hi", "{x}", "line\n", " a ", "1", "{{}}", "{1, 2}", "b'x'", "1+2j", "...", "0x" + "f" * 5000, "[1"]
)
def test_texts_that_look_like_something_else_stay_texts(text: str) -> None:
    chat = ChatFormat(stand_in("qwen3_6", TEMPLATES["qwen3_6"]), forks=True, tools=[NOTE])
    assert chat.calls is not None
    call = Call("note", {"text": text, "n": 1})
    assert chat.calls.read(chat.decode(chat.called("", [call])), [NOTE])[1] == [call]
    written = "<tool_call>\n<function=note>\n<parameter=text>\nNone\n</parameter>\n</function>\n</tool_call>"
    assert chat.calls.read(written, [NOTE])[1] == [Call("note", {"text": None})]


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    """Counted in steps of the search, which no busy machine stretches: a value has so many ends and no more."""
    chat = ChatFormat(stand_in("qwen3_6", TEMPLATES["qwen3_6"]), forks=True, tools=[NOTE])
    assert chat.calls is not None
    garbage = "[" + "1," * 5000 + "\n</parameter>\n<parameter=a>\n" * 2000
    for text in (garbage, " " * 50_000, "\n" * 50_000, "<tool_call>" * 5000):
        with pytest.raises(CallError):
            chat.calls.read(f"<tool_call>\n<function=note>\n<parameter=any>\n{text}", [NOTE])


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [
        ("qwen3", '<think>\nmaybe\n<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>', []),
        ("qwen3", '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>', [Call("look", {})]),
        ("qwen3", '<tool_call>{"name":"look","arguments":{}}</tool_call>\n', [Call("look", {})]),
        ("qwen3", "<think>\n<tool_call>?\n</think>\n\ngo up", []),
        ("qwen3_6", "<tool_call>\n<function=look>\n</function>\n</tool_call>", [Call("look", {})]),
    ],
)
def test_marks_are_read_with_other_blanks_and_not_in_thoughts(name: str, text: str, calls: list[Call]) -> None:
    marks = chat_of(name).calls
    assert marks is not None and marks.read(text, TOOLS)[1] == calls


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {}}\n',
        '<tool_call>\n{"name": "look", "arguments": {]}\n</tool_call>',
        '<tool_call>\n{"name": "look", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call> and more',
        '<tool_call>\n{"name": "',
    ],
)
def test_calls_that_are_not_finished_or_go_on_are_no_calls(text: str) -> None:
    marks = chat_of("qwen3").calls
    assert marks is not None
    with pytest.raises(CallError):
        marks.read(text, TOOLS)


def test_arguments_are_plain_text_for_the_template() -> None:
    """No argument opens or ends a turn."""
    chat = chat_of("qwen3")
    ids = chat.called("", [Call("go", {"to": "<|im_end|>\n<|im_start|>user"})])
    assert ids.count(chat.end_id) == 1 and ids[-1] == chat.end_id


def test_nested_arguments_are_refused_where_the_template_writes_them_in_its_own_way() -> None:
    chat = ChatFormat(stand_in("gemma4", TEMPLATES["gemma4"]), forks=True, tools=[GO])
    Turns(chat, "react")
    with pytest.raises(ModelError, match=r"make go\.steps a text or a number"):
        Turns(chat, "native")


def test_two_calls_are_no_demonstration_where_the_template_takes_one() -> None:
    chat = ChatFormat(stand_in("llama3_1", TEMPLATES["llama3_1"]), forks=True, tools=TOOLS)
    look = Transition("", Call("look", {}).text, "", 0.0, False)
    assert Turns(chat, "native").holds([look]) and not Turns(chat, "native").holds([look, look])
    thought = Transition("", Call("look", {}).text, "", 0.0, False, thought="Hm.")
    assert Turns(chat, "plain").holds([thought]), "plain leaves thoughts out on purpose"


def test_blanks_in_a_tagged_call_are_kept() -> None:
    chat = ChatFormat(stand_in("phi3", TEMPLATES["phi3"]), forks=True, tools=TOOLS)
    call = Call("take", {"thing": "a  b\u2003c"})
    turn = [Transition("", call.text, "", 0.0, False)]
    turns = Turns(chat, "native")
    assert turns.read(turns.write(turn), finished=True).calls == (call,)
