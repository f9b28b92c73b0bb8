"""What a policy reads at each turn of an episode, and the token samples that come of it."""

from __future__ import annotations

from dataclasses import replace

from dreamgym.config import PolicyConfig
from dreamgym.models.answers import FORMATS
from dreamgym.models.chat import ChatFormat, Message, opening
from dreamgym.models.prompts import changed_lines, in_full, last_line
from dreamgym.types import Task, TokenSample, Transition

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

    def __init__(self, chat: ChatFormat, policy: PolicyConfig, task: Task, first_state: str) -> None:
        self._chat, self._policy, self._task = chat, policy, replace(task, first_state=first_state)
        self._whole = {"grow": None, "window": policy.context_turns, "steps": 0}[policy.context]
        said = FORMATS[policy.format].write("A thought.", "an action")
        self._grows = chat.grows_with(said)
        self._steps: list[Transition] = []
        self._ended = True
        self.samples: list[TokenSample] = [TokenSample()]
        self.samples[0].add_context(chat.start(opening(task, first_state, policy)))

    @property
    def prompt(self) -> list[int]:
        """What the engine reads next."""
        return self.samples[-1].ids

    def sampled(self, ids: list[int], logprobs: list[float], versions: list[int], ended: bool) -> None:
        """The policy's answer; `ended` says whether its last id ends the turn."""
        self.samples[-1].add_sampled(ids, logprobs, versions)
        self._ended = ended

    def written(self, text: str, taught: bool) -> None:
        """An answer that nobody sampled; where it is taught its ids have mask 1."""
        ids = self._chat.answer(text)
        if taught:
            self.samples[-1].add_sampled(ids, [0.0] * len(ids), [0] * len(ids))
        else:
            self.samples[-1].add_context(ids)

    def observed(self, step: Transition) -> None:
        """What came of the answer; the next prompt follows."""
        self._steps.append(step)
        closing = [] if self._ended else [self._chat.end_id]
        self._ended = True
        whole = self._whole is None or len(self._steps) <= self._whole
        if whole and self._grows:
            self.samples[-1].add_context(closing + self._chat.turn(step.next_state))
            return
        ids = self._chat.start(self._messages(len(self._steps), 0)) if whole else self._shortened()
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
            lines = len(self._steps) - whole
            while True:
                ids = self._chat.start(self._messages(whole, lines))
                if len(ids) <= room:
                    return ids
                if lines == 0:
                    break
                lines //= 2
        return ids  # the present state alone is too long: the engine says so

    def _messages(self, whole: int, lines: int) -> list[Message]:
        """The conversation with its last turns whole, and of those before them the last ones by a line each."""
        split = len(self._steps) - whole
        before, after = self._steps[:split], self._steps[split:]
        told = [_line(step) for step in before[split - lines :]]
        if lines < split:
            told.insert(0, f"({split - lines} earlier turns)")
        shown = in_full(self._task, _state_after(before[-1]), told) if before else self._task.first_state
        *messages, user = opening(self._task, shown, self._policy)
        messages.append(user)
        for step in after:
            said = step.answer or FORMATS[self._policy.format].write(step.thought, step.action)
            messages += [{"role": "assistant", "content": said}, {"role": "user", "content": step.next_state}]
        return messages


def _line(step: Transition) -> str:
    """A turn in one line: what was done, and what changed by it."""
    if step.malformed:
        return "> (nothing was done)"
    told = changed_lines(step.state, step.next_state)
    after = " | ".join(told) if told else last_line(step.next_state)
    line = " ".join(f"> {step.action} = {after}".split())
    return line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…"


def _state_after(step: Transition) -> str:
    """The state that a step led to, with the sentence that was read where nothing was done."""
    return f"{step.next_state}\n{step.state}" if step.malformed else step.next_state
