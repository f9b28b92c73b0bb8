"""KeyHouse by tools: the agent calls functions with arguments, as JSON, instead of typing commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from dreamgym.models.answers.calls import Call, read_call
from dreamgym.types import Task, Transition
from examples.keyhouse import COLOURS, KeyHouse


def _tool(name: str, description: str, **arguments: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": arguments,
        "required": list(arguments),
        "additionalProperties": False,
    }
    return {"name": name, "description": description, "parameters": parameters}


class KeyHouseTools(KeyHouse):
    """The same house; `{"name": "go", "arguments": {"direction": "east"}}` is what `go east` is there."""

    tools: ClassVar[list[dict[str, Any]]] = [
        _tool("go", "Walk into the next room.", direction={"type": "string", "enum": ["west", "east"]}),
        _tool("take", "Take a key that lies here.", colour={"type": "string", "enum": list(COLOURS)}),
        _tool("open", "Open the chest with the key in your hand."),
        _tool("wait", "Do nothing."),
    ]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return super().step(command(action))

    def valid_actions(self) -> list[str]:
        return [call(typed) for typed in super().valid_actions()]

    def commands(self) -> list[str]:
        return [call(typed) for typed in super().commands()]

    def expert_action(self) -> str:
        return call(super().expert_action())

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        return KeyHouse.reason(task, history, replace(transition, action=command(transition.action)))

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        return KeyHouse.think(task, history, command(action))


def command(action: str) -> str:
    """The command that a call stands for."""
    name, arguments = read_call(action)
    return {"take": "take {colour} key", "go": "go {direction}", "open": "open chest"}.get(name, name).format(
        **arguments
    )


def call(typed: str) -> str:
    """The call that stands for a command."""
    verb, *rest = typed.split()
    arguments = {"go": ("direction",), "take": ("colour",)}.get(verb, ())
    return Call(verb, dict(zip(arguments, rest, strict=False))).text
