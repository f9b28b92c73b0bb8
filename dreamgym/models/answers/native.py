"""A model's own way to think, `<think>…</think>` and then the action, as the templates of most families write it."""

from __future__ import annotations

from dreamgym.models.answers.base import Answer, AnswerFormat


class Native(AnswerFormat):
    """The thought may be left out; it is asked for by the chat template, not by a sentence of ours."""

    def parse(self, text: str) -> Answer:
        thought, closed, action = text.partition("</think>")
        if not closed:
            thought, action = ("", text) if "<think>" not in text else (text, "")
        thought = thought.strip().removeprefix("<think>").strip()
        action = action.strip()
        if not action:
            return Answer(text, thought, malformed="no_action")
        if "<think>" in action or "</think>" in action:
            return Answer(text, thought, malformed="several_actions")
        return Answer(text, thought, action)

    def write(self, thought: str, action: str) -> str:
        return f"<think>\n{thought}\n</think>\n\n{action}" if thought else action
