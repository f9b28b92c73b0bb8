"""`<think>…</think><action>…</action>`, as verl-agent and RAGEN ask for."""

from __future__ import annotations

import re
from typing import ClassVar

from dreamgym.models.answers.base import Answer, AnswerFormat

_THINK = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)
_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)


class Tags(AnswerFormat):
    """The thought may be left out; nothing but blanks may stand outside the tags."""

    asks: ClassVar[str] = "Write your thought as <think>…</think>, then one action as <action>…</action>."

    def parse(self, text: str) -> Answer:
        thinking = _THINK.match(text)
        thought = thinking[1].strip() if thinking else ""
        rest = text[thinking.end() :] if thinking else text
        actions = list(_ACTION.finditer(rest))
        if len(actions) > 1:
            return Answer(text, thought, malformed="several_actions")
        if not actions or not actions[0][1].strip():
            return Answer(text, thought, malformed="no_action")
        if (rest[: actions[0].start()] + rest[actions[0].end() :]).strip():
            return Answer(text, thought, malformed="stray_text")
        return Answer(text, thought, actions[0][1].strip())

    def write(self, thought: str, action: str) -> str:
        return f"<think>{thought}</think><action>{action}</action>" if thought else f"<action>{action}</action>"
