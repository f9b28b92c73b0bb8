"""An action is one call with literals, as text or as a tool, and nothing else is run."""

from __future__ import annotations

import inspect
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.envs.web.actions import ELEMENTS, SCHEMAS, SITES, NotACall, read_action, write_action
from dreamgym.envs.web.env import SEEDS, BrowserGym, BrowserGymTools, as_tool
from dreamgym.envs.web.hosts import may_open
from dreamgym.errors import EnvError
from dreamgym.models.answers.calls import check_tools, read_call
from dreamgym.types import Task, Transition

NAMES = tuple(SCHEMAS)


@given(st.sampled_from(NAMES), st.lists(st.text() | st.integers() | st.booleans(), max_size=3), st.text())
def test_what_is_written_is_read(name: str, positional: list[object], word: str) -> None:
    action = write_action(name, *positional, value=word)
    assert read_action(action, NAMES) == (name, positional, {"value": word})


@pytest.mark.parametrize(
    "text",
    ["", "click", "click('1'); click('2')", "click('1')\nclick('2')", "do not click('1')", "click(__import__('os'))",
     "click(*['1'])", "click(**{'bid': '1'})", "page.click('1')", "upload_file('1', '/etc/hosts')", "a" * 5, "(" * 300,
     "click('1') if True else noop()", "x = click('1')", "click('\ud800')" * 2],
)  # fmt: skip
def test_anything_else_is_told_what_an_action_is(text: str) -> None:
    with pytest.raises(NotACall):
        read_action(text, NAMES)


def test_an_action_as_a_tool_says_the_same() -> None:
    assert read_call(as_tool("fill('7', 'a \"b\"')")) == ("fill", {"bid": "7", "value": 'a "b"'})
    assert read_call(as_tool("press('7', key_comb='Enter')")) == ("press", {"bid": "7", "key_comb": "Enter"})
    assert check_tools(BrowserGymTools.tools, "here")


def test_the_schemas_are_those_of_browsergyms_own_functions() -> None:
    functions = pytest.importorskip("browsergym.core.action.functions", reason="the extra 'web' is not installed")
    for tool in (*ELEMENTS, *SITES):
        signature = inspect.signature(getattr(functions, tool["name"])).parameters
        assert set(tool["parameters"]["properties"]) <= set(signature), tool["name"]
        needed = {name for name, parameter in signature.items() if parameter.default is inspect.Parameter.empty}
        assert needed <= set(tool["parameters"]["required"]), tool["name"]


@pytest.mark.parametrize(
    ("url", "open_"),
    [
        ("https://shop.example/a?b=c", True), ("http://SHOP.example", True), ("wss://a.cdn.example/x", True),
        ("https://shop.example.evil.example/", False), ("https://evil.example/shop.example", False),
        ("https://shop.example@evil.example/", False), ("ftp://shop.example/", False), ("data:text/html,a", True),
        ("about:blank", True), ("file:///pages/html/a.html", True), ("file:///pages/html/../../etc/passwd", False),
        ("file:///etc/passwd", False), ("javascript:1", False),
    ],
)  # fmt: skip
def test_only_the_hosts_and_files_of_a_task_are_opened(url: str, open_: bool) -> None:
    assert may_open(url, ["shop.example", "*.cdn.example"], "/pages/html") is open_


def test_folds_share_no_page() -> None:
    assert not set(SEEDS["test"]) & set(SEEDS["dev"]) and not set(SEEDS["dev"]) & set(SEEDS["train"])


def test_options_are_held_against_their_form() -> None:
    with pytest.raises(EnvError, match="are lists"):
        BrowserGym(tasks="miniwob.click-test")
    with pytest.raises(EnvError, match="'click-test' is no id"):
        BrowserGym(tasks=["click-test"])


def test_a_thought_says_in_the_pages_words_what_is_acted_on() -> None:
    task = Task("t", "browsergym", "Log in.", "", "16 textbox username = joe\n20 button Login (disabled)")
    assert BrowserGym.think(task, [], "click('20')") == "click Login"
    assert BrowserGym.think(task, [], "fill('16', 'ann')") == "fill username: ann"
    assert BrowserGymTools.think(task, [], json.dumps({"name": "click", "arguments": {"bid": "20"}})) == "click Login"
    assert BrowserGym.think(task, [], "click('99')") == "99 is not on the page"
    assert BrowserGym.think(task, [], "no call") == "no call is not on the page"
    assert BrowserGym.think(task, [], "send_msg_to_user('it is 3')") == "send_msg_to_user: it is 3"
    step = Transition(task.first_state, "click('99')", task.first_state, 0.0, False)
    assert BrowserGym.reason(task, [], step) == "99 is not here"


@pytest.mark.parametrize(
    ("action", "reward", "reasoning"),
    [
        ("click('21')", 1.0, "click Submit, asked, has Peru, asked, has joe, not asked; solved"),
        ("click('21')", 0.5, "click Submit, asked, has Peru, asked, has joe, not asked; wrong"),
        ("click('13')", None, "click combobox, not asked; same"),
        ("fill('16', 'ann')", None, "fill user: ann, asked; same"),
        ("click('99')", None, "99 is not here"),
        ("press Submit", None, "no such action"),
        ("send_msg_to_user('Peru')", 1.0, "send_msg_to_user: Peru, asked, has Peru, asked, has joe, not asked; solved"),
        ("goto('http://shop.example')", None, "goto: http://shop.example, not asked; same"),
        ("go_back()", None, "go_back; same"),
    ],
)
def test_a_reasoning_says_what_a_page_holds_and_whether_it_was_asked_for(
    action: str, reward: float | None, reasoning: str
) -> None:
    state = "13 combobox = Peru (collapsed)\n 14 option Peru (selected)\n16 textbox user = joe\n21 button Submit"
    task = Task("t", "browsergym", "Choose Peru for ann and press Submit.", "{}", state)
    step = Transition(state, action, state, reward or 0.0, reward is not None)
    assert BrowserGym.reason(task, [], step) == reasoning
