"""Thoughts of model families that write them in channels of their own: told as `<think>…</think>`, and written back.

Everywhere else a thought stands between `<think>` and `</think>`, before the action. Here is the one place that knows
how gpt-oss, Muse and Gemma 4 say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from dreamgym.models.answers.call_messages import Message

_THOUGHT = re.compile(r"<think>\n(.*?)\s*</think>\s*", re.DOTALL)
_CALL = re.compile(
    r"(?:[ \n]*to=(functions\.[\w.-]+))?<\|channel\|>(?:commentary|analysis)"
    r"(?: +to=(functions\.[\w.-]+))?\s*(?:<\|constrain\|>)?\s*(?:json)?\s*<\|message\|>"
)
"""The header of a call, in each order in which gpt-oss writes it."""


class Piece(NamedTuple):
    """A part of a written answer, where it begins in the text, and whether it is a mark, in which tokens are tokens."""

    at: int
    text: str
    mark: bool


@dataclass(frozen=True, slots=True)
class Channels:
    """How a family writes an answer behind the generation prompt.

    With a thought it is opens, thought, closes, says, action; without one, says and action. A call stands where says
    and the action do.

    field    the key of a message that holds its thought
    restart  the end of `closes` that begins another message
    """

    field: str
    opens: str
    closes: str
    says: str
    restart: str

    def told(self, text: str, calls: bool) -> str:
        """A sampled answer, without its end, as other families write it.

        With `calls`, one that says nothing has a call behind `restart`. Otherwise it has no action, and its thought has
        no end. Where more follows than one action, another thought begins there.
        """
        text = _CALL.sub(_header, text) if self.says.startswith("<|channel|>") else text
        thoughts, rest = [], text
        while rest.lstrip().startswith(self.opens.strip()):
            thought, closed, rest = rest.lstrip()[len(self.opens.strip()) :].partition(self.closes.strip())
            thoughts.append(thought.strip())
            if not closed:
                return "<think>\n" + "\n".join(thoughts)
        thought = "\n".join(filter(None, thoughts))
        head = f"<think>\n{thought}\n</think>\n\n"
        if rest.lstrip().startswith(self.says.strip()):
            said = rest.lstrip()[len(self.says.strip()) :] if self.says else rest
            more = said.replace(self.closes.strip(), "\n<think>\n")
            return head + more if thought or more != said else said
        if calls and rest.strip():
            return (head if thought else "") + self.restart + rest
        return f"<think>\n{thought}{rest}"

    def pieces(self, text: str) -> Iterator[Piece]:
        """A written answer as the family writes it."""
        found = _THOUGHT.match(text)
        if not found:
            yield from (Piece(0, self.says, True), Piece(0, text, False))
            return
        head, before = re.fullmatch(r"(.*>)(.*)", self.opens, re.DOTALL).groups()  # type: ignore[union-attr]
        after, tail = re.fullmatch(r"([^<]*)(.*)", self.closes, re.DOTALL).groups()  # type: ignore[union-attr]
        yield Piece(0, head, True)
        yield Piece(found.start(1) - len(before), before + found[1] + after, False)
        yield Piece(found.end(), tail + self.says, True)
        yield Piece(found.end(), text[found.end() :], False)


def set_apart(message: Message, field: str) -> Message:
    """A message of the assistant with its thought in a field of its own."""
    said: Any = message.get("content")
    found = _THOUGHT.match(said) if message["role"] == "assistant" and isinstance(said, str) else None
    return {**message, "content": said[found.end() :], field: found[1]} if found else message


def field_of(render: Callable[[list[Message], bool], str], opened: str) -> str:
    """Where messages hold their thoughts, for a template that knows `<think>` and does not look for it in the content.

    Empty for others. `render` takes messages and whether the generation prompt follows; that ends with `opened`.
    """
    user, said = {"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nT.\n</think>\n\nb"}
    written = render([user], True).removesuffix(opened) + said["content"]
    shown = [render([user, message], False) for message in (said, set_apart(said, "reasoning_content"))]
    return "reasoning_content" if shown[1].startswith(written) and not shown[0].startswith(written) else ""


def _header(found: re.Match[str]) -> str:
    """The header of a call as the template writes it; of what is said before one, as a thought."""
    name = found[1] or found[2]
    if name:
        return f" to={name}<|channel|>commentary json<|message|>"
    return "<|channel|>analysis<|message|>"


GPT_OSS = Channels(
    field="thinking",
    opens="<|channel|>analysis<|message|>",
    closes="<|end|><|start|>assistant",
    says="<|channel|>final<|message|>",
    restart="<|start|>assistant",
)
MUSE = Channels(
    field="reasoning_content",
    opens=" to=self<|message|>",
    closes="<|eom|><|start|>assistant",
    says=" to=user<|message|>",
    restart="<|start|>assistant",
)
GEMMA = Channels(field="reasoning_content", opens="<|channel>thought\n", closes="\n<channel|>", says="", restart="")


def channels_of(template: str) -> Channels | None:
    """The channels that a chat template writes thoughts in; None where it has none."""
    for family, sign in ((GPT_OSS, GPT_OSS.opens), (MUSE, MUSE.opens), (GEMMA, "<|channel>")):
        if sign in template:
            return family
    return None
