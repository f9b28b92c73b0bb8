"""Calls of an environment's tools: as JSON text, and held against the schemas of the tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from dreamgym.errors import EnvError

Tool = dict[str, Any]
"""A function that an environment offers: `name`, `description`, and `parameters`, a JSON Schema of type object."""


DEEPEST = 64
"""Levels of lists and objects in the arguments of a call."""
LARGEST = 1e300
"""No number of a call is as large as this."""


class CallError(ValueError):
    """Text that is no call."""


class Call(NamedTuple):
    """A tool and what it is called with."""

    name: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """The call as an action: one line of JSON, `{"name": "go", "arguments": {"to": "attic"}}`."""
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


def read_call(action: str) -> Call:
    """The call that an action of this environment is; the inverse of `Call.text`.

    Raises:
        CallError: it is none.
    """
    calls = read_calls(action)
    if len(calls) > 1:
        raise CallError("it is more than one call")
    return calls[0]


def read_calls(text: str) -> list[Call]:
    """The calls of a text, one after the other with nothing but blanks between them. Raises as `read_call`."""
    calls: list[Call] = []
    rest = text.strip()
    while rest or not calls:
        try:
            found, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError) as error:
            raise CallError(f"it is no JSON ({error})") from error
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            raise CallError('it is no JSON object with a "name" and its "arguments"')
        arguments = found.get("arguments", {})
        if not isinstance(arguments, dict) or set(found) - {"name", "arguments"}:
            raise CallError('beside "name" it may have "arguments", an object, and nothing else')
        calls.append(checked(Call(found["name"], arguments)))
        rest = rest[end:].lstrip()
    return calls


def checked(call: Call) -> Call:
    """The call, if JSON can hold it and others can read it.

    Raises:
        CallError: it nests deeper than `DEEPEST`, or holds something else than JSON's values, a number without end, or
            half a character.
    """
    for value, depth in _values(call.arguments):
        if depth > DEEPEST:
            raise CallError(f"its arguments nest deeper than {DEEPEST} levels")
        if value is not None and not isinstance(value, str | bool | int | float | list | dict):
            raise CallError(f"a {type(value).__name__} is no value of JSON")
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            raise CallError("a number is too large, or none")
    try:
        call.text.encode()
    except UnicodeEncodeError as error:
        raise CallError("it holds half a character") from error
    return call


def _values(value: Any, depth: int = 0) -> Iterator[tuple[Any, int]]:
    """All values at any depth, and how deep they are; not below `DEEPEST`."""
    yield value, depth
    if isinstance(value, dict | list) and depth <= DEEPEST:
        for one in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _values(one, depth + 1)


def misfit(tools: Sequence[Tool], call: Call) -> str:
    """Where a call does not fit the schema of its tool, in words; empty where it fits."""
    tool = next((tool for tool in tools if tool["name"] == call.name), None)
    if tool is None:
        return f"there is no tool '{call.name[:80]}', but {', '.join(tool['name'] for tool in tools)}"
    try:
        error = best_match(_validator(tool["parameters"]).iter_errors(call.arguments))
    except Exception as fault:  # noqa: BLE001 - a schema may hold anything, such as itself
        return f"its arguments cannot be held against the schema of {call.name} ({type(fault).__name__})"
    if error is None:
        return ""
    where = error.json_path.replace("$", call.name, 1)
    return f"at {where}: {error.message if len(error.message) < 300 else error.message[:299] + '…'}"


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Holds values against a schema; nothing that it refers to is fetched from elsewhere."""
    return Draft202012Validator(schema, registry=Registry())


def told(tools: Sequence[Tool]) -> str:
    """The tools in words, for a model that learns of them from its messages: one a line, as JSON."""
    lines = (json.dumps(tool, ensure_ascii=False) for tool in tools)
    return "\n".join(["tools:", *lines]) if tools else ""


def check_tools(tools: Any, where: str) -> tuple[Tool, ...]:
    """The tools that an environment's class names, with an empty description where they have none.

    Raises:
        EnvError: one of them is not what `Tool` says, or two have one name.
    """
    if tools is None:
        return ()
    if not isinstance(tools, list | tuple):
        raise EnvError(f"{where}: tools is no list but a {type(tools).__name__}; see docs/how-to/tools.md.")
    found: list[Tool] = []
    for index, tool in enumerate(tools):
        problem = _problem(tool)
        if problem:
            raise EnvError(f"{where}: tools[{index}] {problem}; see docs/how-to/tools.md.")
        found.append({"description": "", **tool})
    if len({tool["name"] for tool in found}) < len(found):
        raise EnvError(f"{where}: two of its tools have the same name; give each its own.")
    return tuple(found)


def _problem(tool: Any) -> str:
    if not isinstance(tool, dict) or not {"name", "parameters"} <= set(tool) <= {"name", "description", "parameters"}:
        return "must have name, parameters and, if you like, description, and nothing else"
    if not isinstance(tool["name"], str) or not tool["name"].replace("-", "_").isidentifier():
        return "has a name that is no word of letters, digits, _ and -"
    if not isinstance(tool["parameters"], dict) or tool["parameters"].get("type") != "object":
        return "has parameters that are no JSON Schema of type object"
    try:
        Draft202012Validator.check_schema(tool["parameters"])
        root = Registry().with_resource("", DRAFT202012.create_resource(tool["parameters"])).resolver()
        for value, _ in _values(tool["parameters"]):
            if isinstance(value, dict) and isinstance(reference := value.get("$ref"), str):
                root.lookup(reference)
    except SchemaError as error:
        return f"has parameters that are no JSON Schema ({error.message})"
    except Unresolvable as error:
        return f"refers to '{error.ref}', which its parameters do not define"
    return ""
