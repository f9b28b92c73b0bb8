"""How the turns of an episode are written and read: the format of answers, the tools, and the chat template in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dreamgym.errors import ModelError
from dreamgym.models.answers import FORMATS, Answer
from dreamgym.models.answers.calls import Call, CallError, read_call, read_calls
from dreamgym.models.chat import ChatFormat, Message
from dreamgym.types import Transition

OPENED, CLOSED = "<tool_call>", "</tool_call>"
"""Around a call, where the chat template knows none."""


class Turns:
    """Turns of a policy, which answers in the format of a name.

    A turn is the transitions of one answer: one, or as many as the tools that it called.

    Where the environment offers tools, an action is a call as JSON. `native` answers mark calls as the chat template
    does, and what came of them is told as results of tools; a template that knows no calls gets `<tool_call>` tags. In
    the other formats the action is written as it is, and what came of it is a message of the user.
    """

    def __init__(self, chat: ChatFormat, name: str) -> None:
        """Raises ModelError where the template's calls cannot hold what a tool takes."""
        self._chat, self._format = chat, FORMATS[name]
        self._calls = chat.calls if name == "native" else None
        if self._calls:
            chat.check_nested()
        self._held: dict[tuple[Transition, ...], bool] = {}
        """What `holds` has found out, by what was said: a rendering takes a while, and most turns say the same."""
        self._tags = name == "native" and bool(chat.tools) and self._calls is None

    @property
    def grow(self) -> bool:
        """Whether a conversation of such turns is rendered turn by turn as it is as a whole."""
        if self._calls:
            return self._chat.grows_with_calls
        return self._chat.grows_with(self._format.write("A thought.", "an action"))

    def read(self, ids: Sequence[int], finished: bool) -> Answer:
        """Take a sampled answer apart; `finished` says whether it ended by itself."""
        text = self._chat.decode(ids)
        if not self._chat.tools or not finished:
            return self._format.read(text, finished=finished)
        try:
            said = self._called(text) if self._calls else self._written(text)
        except CallError as error:
            return Answer(text, malformed="unreadable_call", why=str(error))
        if said.malformed:
            return said
        return replace(said, action="\n".join(call.text for call in said.calls))

    def _called(self, text: str) -> Answer:
        assert self._calls is not None
        head, calls = self._calls.read(text, self._chat.tools)
        thought = head.replace("<think>", "").replace("</think>", "").strip()
        return Answer(text, thought, malformed="" if calls else "no_call", calls=tuple(calls))

    def _written(self, text: str) -> Answer:
        said = self._format.parse(text)
        if said.malformed:
            return said
        tagged = [part.partition(CLOSED)[0] for part in said.action.split(OPENED)[1:]] if self._tags else []
        return replace(said, calls=tuple(read_calls("\n".join(tagged) or said.action)))

    def write(self, turn: Sequence[Transition]) -> list[int]:
        """Ids of an answer that nobody sampled, with its end token."""
        marked = self._marked(turn)
        return self._chat.called(*marked) if marked else self._chat.answer(self._text(turn))

    def holds(self, turn: Sequence[Transition]) -> bool:
        """Whether an answer is read back as it is written."""
        said = tuple(replace(step, state="", next_state="", reasoning="") for step in turn)
        if said not in self._held:
            self._held[said] = self._holds(said)
        return self._held[said]

    def _holds(self, turn: Sequence[Transition]) -> bool:
        first = turn[0]
        if not self._chat.tools:
            return self._format.holds(first.thought, first.action)
        thinks = self._format.write("A thought.", "an action") != self._format.write("", "an action")
        thought = first.thought.strip() if thinks else ""
        try:
            found = self.read(self.write(turn), finished=True)
            return list(found.calls) == self._calls_of(turn) and found.thought == thought
        except (CallError, ModelError):  # such as two calls, of which the template takes one
            return False

    def messages(self, turn: Sequence[Transition]) -> list[Message]:
        """A turn as messages: the answer, and what came of it."""
        marked = self._marked(turn)
        if self._calls and marked:
            head, calls = marked
            called = self._calls.shape.message(head if self._calls.headed else "", calls)
            return [called, *self._calls.shape.results(calls, [step.next_state for step in turn])]
        said = {"role": "assistant", "content": self._text(turn)}
        return [said, {"role": "user", "content": self._told(turn)}]

    def follows(self, turn: Sequence[Transition]) -> list[int] | None:
        """Ids that follow an ended answer: what came of it, and the next generation prompt.

        None where they cannot be told without the whole conversation: a message of the user among calls.
        """
        if not self._calls:
            return self._chat.turn(self._told(turn))
        if not self._marked(turn):
            return None
        called, *results = self.messages(turn)
        return self._chat.results(called, results)

    def _told(self, turn: Sequence[Transition]) -> str:
        return "\n".join(step.next_state for step in turn)

    def _text(self, turn: Sequence[Transition]) -> str:
        first = turn[0]
        if first.answer or first.malformed:
            return first.answer
        action = "\n".join(step.action for step in turn)
        if self._tags:
            action = "\n".join(f"{OPENED}\n{step.action}\n{CLOSED}" for step in turn)
        return self._format.write(first.thought, action)

    def _head(self, first: Transition) -> str:
        return f"<think>\n{first.thought}\n</think>\n\n" if first.thought else ""

    def _calls_of(self, turn: Sequence[Transition]) -> list[Call]:
        return [read_call(step.action) for step in turn]

    def _marked(self, turn: Sequence[Transition]) -> tuple[str, list[Call]] | None:
        """What the answer says before its calls, and the calls; None where it has none that can be read."""
        first = turn[0]
        if not self._calls or first.malformed not in ("", "misfit_call"):
            return None
        if not first.answer:
            return self._head(first), self._calls_of(turn)
        try:
            head, calls = self._calls.read(first.answer, self._chat.tools)
        except CallError:
            return None
        return (head, calls) if calls else None
