"""Turns with calls of tools as messages, in each shape that some chat template asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamgym.models.answers.calls import Call

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MessageShape:
    """How a template wants the message of a turn with calls; they differ in what they can take.

    empty    what the content is where there is none, "" or None
    as_text  whether arguments are JSON text, or an object
    ids      the pattern of the calls' ids
    """

    empty: str | None
    as_text: bool
    ids: str

    def id(self, name: str, number: int) -> str:
        return self.ids.format(name=name, number=number)

    def message(self, head: str, calls: Sequence[Call]) -> Message:
        """What stands before the calls, and the calls, as a message of the assistant."""
        told = [
            {
                "id": self.id(call.name, number),
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": json.dumps(call.arguments, ensure_ascii=False) if self.as_text else call.arguments,
                },
            }
            for number, call in enumerate(calls)
        ]
        return {"role": "assistant", "content": head or self.empty, "tool_calls": told}

    def results(self, calls: Sequence[Call], contents: Sequence[str]) -> list[Message]:
        """What came of the first calls, as messages of the role `tool`."""
        return [
            {"role": "tool", "name": call.name, "tool_call_id": self.id(call.name, number), "content": content}
            for number, (call, content) in enumerate(zip(calls, contents, strict=False))
        ]


SHAPES = tuple(
    MessageShape(empty, as_text, ids)
    for ids in ("call0000{number}", "functions.{name}:{number}")
    for empty in ("", None)
    for as_text in (False, True)
)
