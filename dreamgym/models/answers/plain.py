"""The whole answer is the action."""

from __future__ import annotations

from dreamgym.models.answers.base import Answer, AnswerFormat


class Plain(AnswerFormat):
    """No thought is written; an empty answer is an empty action."""

    def parse(self, text: str) -> Answer:
        return Answer(text, action=text.strip())

    def write(self, thought: str, action: str) -> str:
        return action

    def holds(self, thought: str, action: str) -> bool:
        """Always: a thought is left out on purpose."""
        return True
