"""BrowserGym's actions as calls: `click('12')` as text or `{"name": "click", …}` as a tool; one a turn, never more."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_ID: dict[str, Any] = {"type": "string", "description": "the number before the element"}


def _tool(name: str, description: str, optional: Sequence[str] = (), **properties: Mapping[str, Any]) -> dict[str, Any]:
    required = [field for field in properties if field not in optional]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": description, "parameters": schema}


ELEMENTS = [
    _tool("click", "Click an element.", bid=_ID),
    _tool(
        "fill",
        "Put text into a field, in place of what it holds.",
        ("enable_autocomplete_menu",),
        bid=_ID,
        value=_TEXT,
        enable_autocomplete_menu={"type": "boolean", "description": "type the last letter, so that a menu opens"},
    ),
    _tool("select_option", "Choose an option of a list by its name.", bid=_ID, options=_TEXT),
    _tool("press", "Press a key, such as Enter, in an element.", bid=_ID, key_comb=_TEXT),
    _tool("hover", "Move the pointer over an element.", bid=_ID),
    _tool("focus", "Focus an element.", bid=_ID),
    _tool("clear", "Empty a field.", bid=_ID),
    _tool("dblclick", "Click an element twice.", bid=_ID),
    _tool("drag_and_drop", "Drag an element to another.", from_bid=_ID, to_bid=_ID),
    _tool("scroll", "Scroll, in pixels.", delta_x=_NUMBER, delta_y=_NUMBER),
    _tool("noop", "Wait, in milliseconds.", wait_ms=_NUMBER),
]
"""What is done to a page. `upload_file` is left out: it would read this machine's files."""
SITES = [
    _tool("goto", "Open an address.", url=_TEXT),
    _tool("go_back", "Go back."),
    _tool("go_forward", "Go forward."),
    _tool("new_tab", "Open a tab."),
    _tool("tab_focus", "Go to a tab, counted from 0.", index={"type": "integer"}),
    _tool("tab_close", "Close this tab."),
    _tool("send_msg_to_user", "Answer the user.", text=_TEXT),
    _tool("report_infeasible", "Say why it cannot be done.", reason=_TEXT),
]
"""What is done between pages, and said to the user; some of these end an episode of MiniWoB."""
SCHEMAS = {tool["name"]: tool["parameters"] for tool in (*ELEMENTS, *SITES)}


class NotACall(ValueError):
    """The text is no call of one of the actions; the sentence says what it should be."""


def read_action(text: str, allowed: Sequence[str]) -> tuple[str, list[Any], dict[str, Any]]:
    """The name and the arguments of an action written as one Python call with literals.

    BrowserGym itself (0.14) runs any call that it finds in a text, also one that a sentence rejects.

    Raises:
        NotACall: it is not exactly one such call.
    """
    wanted = f"an action is one of {', '.join(allowed)}, written as one call, such as click('12')"
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotACall(wanted) from error
    if not isinstance(body, ast.Call) or not isinstance(body.func, ast.Name):
        raise NotACall(wanted)
    if body.func.id not in allowed:
        raise NotACall(f"there is no action {body.func.id}; {wanted}")
    try:
        positional = [ast.literal_eval(argument) for argument in body.args]
        named = {word.arg: ast.literal_eval(word.value) for word in body.keywords if word.arg}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise NotACall(f"the arguments of {body.func.id} must be numbers or quoted text") from error
    if len(named) < len(body.keywords):
        raise NotACall(wanted)
    return body.func.id, positional, named


def write_action(name: str, *positional: Any, **named: Any) -> str:
    """The action as text, as `read_action` reads it."""
    words = [*map(repr, positional), *(f"{field}={value!r}" for field, value in named.items())]
    return f"{name}({', '.join(words)})"
