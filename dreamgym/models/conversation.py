"""What a policy reads at each turn of an episode, and the token samples that come of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dreamgym.config import PolicyConfig
from dreamgym.models.answers import FORMATS, Answer
from dreamgym.models.answers.calls import Tool, told
from dreamgym.models.chat import ChatFormat, Message
from dreamgym.models.prompts import changed_lines, in_full, last_line
from dreamgym.models.turns import Turns
from dreamgym.types import Task, TokenSample, Transition

LineRule = Callable[[Transition], str]
"""An environment's rule for the line that stands for an earlier turn."""
LINE_CHARS = 200
"""The longest line that stands for an earlier turn."""


class Conversation:
    """One episode as the policy reads it, by `policy.context`.

    grow    Everything so far: one sample, which only ever grows. No token that was sampled is written anew.
    window  The last `policy.context_turns` turns whole, and a line for each earlier one. While no turn is earlier, the
            sample grows; then each turn begins a sample of its own.
    steps   The present state and a line for each turn before it: each turn is a sample of its own.

    Where the chat template rewrites earlier turns, such as one that drops old thoughts, the conversation is rendered
    whole at each turn, and begins another sample where the template has changed what was read before.

    Every sampled token is in one sample, behind exactly what the engine read before it. Where what is shown would fill
    the engine's window, the oldest lines go, and then the oldest whole turns.
    """

    def __init__(
        self, chat: ChatFormat, policy: PolicyConfig, task: Task, first_state: str, line: LineRule | None = None
    ) -> None:
        """`line` tells an earlier turn in a line; without it, what was done and what changed by it."""
        self._line = line or _what_changed
        self._chat, self._policy, self._task = chat, policy, replace(task, first_state=first_state)
        self._whole = {"grow": None, "window": policy.context_turns, "steps": 0}[policy.context]
        self._as_said = Turns(chat, policy.format)
        self._grows = self._as_said.grow
        self._turns: list[Sequence[Transition]] = []
        self._ended = True
        self.samples: list[TokenSample] = [TokenSample()]
        self.samples[0].add_context(chat.start(self._opening(first_state)))

    @property
    def prompt(self) -> list[int]:
        """What the engine reads next."""
        return self.samples[-1].ids

    def _opening(self, state: str) -> list[Message]:
        listed = self._chat.lists_tools
        return opening(self._task, state, self._policy, () if listed else self._chat.tools)

    def read(self, ids: Sequence[int], finished: bool) -> Answer:
        """Take a sampled answer apart; `finished` says whether it ended by itself."""
        return self._as_said.read(ids, finished)

    def sampled(self, ids: list[int], logprobs: list[float], versions: list[int], ended: bool) -> None:
        """The policy's answer; `ended` says whether its last id ends the turn."""
        self.samples[-1].add_sampled(ids, logprobs, versions)
        self._ended = ended

    def written(self, turn: Sequence[Transition], taught: bool) -> None:
        """An answer that nobody sampled, of one turn; where it is taught its ids have mask 1."""
        ids = self._as_said.write(turn)
        if taught:
            self.samples[-1].add_sampled(ids, [0.0] * len(ids), [0] * len(ids))
        else:
            self.samples[-1].add_context(ids)

    def observed(self, turn: Sequence[Transition]) -> None:
        """What came of the answer, by the transitions that it led to; the next prompt follows."""
        self._turns.append(turn)
        closing = [] if self._ended else [self._chat.end_id]
        self._ended = True
        whole = self._whole is None or len(self._turns) <= self._whole
        follows = self._as_said.follows(turn) if whole and self._grows else None
        if follows is not None:
            self.samples[-1].add_context(closing + follows)
            return
        if whole:
            self._grows = False
        ids = self._chat.start(self._messages(len(self._turns), 0)) if whole else self._shortened()
        before = self.samples[-1].ids + closing
        if ids[: len(before)] == before:
            self.samples[-1].add_context(ids[len(self.samples[-1].ids) :])
        else:
            self.samples.append(TokenSample())
            self.samples[-1].add_context(ids)

    def _shortened(self) -> list[int]:
        """Ids of the conversation, less as many old lines, then old turns, as must go for the answer to have room."""
        assert self._whole is not None
        room = self._policy.engine.max_model_len - self._policy.sampling.max_tokens
        for whole in range(self._whole, -1, -1):
            lines = len(self._turns) - whole
            while True:
                ids = self._chat.start(self._messages(whole, lines))
                if len(ids) <= room:
                    return ids
                if lines == 0:
                    break
                lines //= 2
        return ids  # the present state alone is too long: the engine says so

    def _told(self, step: Transition, last: bool) -> str:
        """An earlier step in one line; why the last one was none stands in full above the state."""
        refused = "(nothing was done)" if last else step.next_state
        told = refused if step.malformed else self._line(step)
        line = " ".join(f"> {told}".split())
        return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"

    def _messages(self, whole: int, lines: int) -> list[Message]:
        """The conversation with its last turns whole, and of those before them the last ones by a line each."""
        split = len(self._turns) - whole
        before, after = self._turns[:split], self._turns[split:]
        told = [self._told(step, step is before[-1][-1]) for turn in before[split - lines :] for step in turn]
        if lines < split:
            told.insert(0, f"({split - lines} earlier turns)")
        shown = in_full(self._task, _state_after(before[-1][-1]), told) if before else self._task.first_state
        messages = self._opening(shown)
        for turn in after:
            messages += self._as_said.messages(turn)
        return messages


def _what_changed(step: Transition) -> str:
    """What was done, and what changed by it."""
    told = changed_lines(step.state, step.next_state)
    return f"{step.action} = {' | '.join(told) if told else last_line(step.next_state)}"


def _state_after(step: Transition) -> str:
    """The state that a step led to, with the sentence that was read where nothing was done."""
    return f"{step.next_state}\n{step.state}" if step.malformed else step.next_state


def opening(task: Task, first_state: str, policy: PolicyConfig, tools: Sequence[Tool] = ()) -> list[Message]:
    """The messages that open an episode: the goal, how to answer where a format is asked for, and the first state.

    `tools` are those that the chat template does not list itself.
    """
    head = [{"role": "system", "content": policy.system_prompt}] if policy.system_prompt else []
    lines = (task.instruction, told(tools), FORMATS[policy.format].asks, first_state)
    return [*head, {"role": "user", "content": "\n".join(line for line in lines if line)}]
