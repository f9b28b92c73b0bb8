"""`Thought: …` and then `Action: …`, as ReAct writes them (arXiv 2210.03629)."""

from __future__ import annotations

import re
from typing import ClassVar

from dreamgym.models.answers.base import Answer, AnswerFormat

_ACTION = re.compile(r"^[ \t]*Action:", re.MULTILINE)
_MORE = re.compile(r"^[ \t]*(?:Thought|Action|Observation):", re.MULTILINE)


class React(AnswerFormat):
    """The thought may be left out. The action may have several lines; a line of another turn is one too many."""

    asks: ClassVar[str] = "Write 'Thought:' and your thought, then in a new line 'Action:' and one action."

    def parse(self, text: str) -> Answer:
        found = _ACTION.search(text)
        thought = text[: found.start() if found else None].strip().removeprefix("Thought:").strip()
        action = text[found.end() :].strip() if found else ""
        if not action:
            return Answer(text, thought, malformed="no_action")
        if _MORE.search(action):
            return Answer(text, thought, malformed="several_actions")
        return Answer(text, thought, action)

    def write(self, thought: str, action: str) -> str:
        return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"
