"""What an answer of the policy is, and what a format of answers offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from dreamgym.models.answers.calls import Call

MALFORMED = {
    "unfinished": "your answer was cut off before its end",
    "no_action": "your answer has no action",
    "several_actions": "your answer goes on after its action",
    "stray_text": "your answer has text outside its tags",
    "no_call": "your answer calls no tool",
    "unreadable_call": "your call cannot be read",
    "misfit_call": "your call does not fit its tool",
}
"""The ways in which an answer is no action, and how the policy is told."""

WHY_CHARS = 400
"""The longest reason that the policy reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the policy, taken apart.

    text       as it was sampled
    thought    what the policy thought before it acted; empty where it did not
    action     what the world is told, as it was written, without the blanks around it
    malformed  a key of `MALFORMED` where the answer is no action; else empty
    why        what exactly is wrong with it, where more can be said
    calls      what it calls, where the environment offers tools; `action` is their text then, one a line
    """

    text: str
    thought: str = ""
    action: str = ""
    malformed: str = ""
    why: str = ""
    calls: tuple[Call, ...] = ()


class AnswerFormat(ABC):
    """One way to write a thought and an action; what it writes, it reads back."""

    asks: ClassVar[str] = ""
    """The sentence that asks a model for this format; empty where there is nothing to ask for."""

    @abstractmethod
    def parse(self, text: str) -> Answer:
        """Take an answer apart that ended by itself."""

    @abstractmethod
    def write(self, thought: str, action: str) -> str:
        """A thought (may be empty) and an action as an answer."""

    def read(self, text: str, *, finished: bool) -> Answer:
        """Take an answer apart; one that did not end by itself is never acted on."""
        return self.parse(text) if finished else Answer(text, malformed="unfinished")

    def holds(self, thought: str, action: str) -> bool:
        """Whether these two are read back as they are written."""
        found = self.parse(self.write(thought, action))
        return (found.thought, found.action, found.malformed) == (thought.strip(), action.strip(), "")

    def refusal(self, malformed: str, why: str = "") -> str:
        """What the policy reads after an answer that is no action."""
        why = why if len(why) <= WHY_CHARS else f"{why[: WHY_CHARS - 1]}…"
        told = f"Nothing was done: {MALFORMED[malformed]}{f' ({why})' if why else ''}."
        return f"{told} {self.asks}" if self.asks else told
