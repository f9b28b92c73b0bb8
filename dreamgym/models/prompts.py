"""What the experience model and the task generator read and write: messages one way, parsers the other.

A dream is one growing conversation. Its first message holds the task and the first state; every further
message holds the demonstrations retrieved for one action, and that action. So a dream step re-reads nothing:
all before it is a prefix that the engine has cached. A model without history (`world.history=false`) reads a first
message at every step, with the state of that step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dreamgym.config import WorldConfig
from dreamgym.models.chat import ChatFormat
from dreamgym.types import MAX_REWARD, Edit, Task, Transition

MAX_ANSWER_CHARS = 20_000
REST = "..."
"""In a written state: the rest is as before."""

_EDIT = re.compile(r"replace (?P<old>.+?) => (?P<new>.+)")
_OUTCOME = re.compile(r"(?P<reward>-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[-+]?[0-9]{1,3})?) done=(?P<done>yes|no)\s*\Z")


class Demonstration(Protocol):
    """What a retrieved transition must offer to be shown (equation 4 of the paper: d_1 .. d_k)."""

    @property
    def state(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def next_state(self) -> str: ...


class ParseError(ValueError):
    """The model's answer does not follow the format; the step is asked again, never rewarded."""


@dataclass(frozen=True, slots=True)
class DreamStep:
    """A parsed dream step: R_t, s_{t+1}, r_{t+1}, done."""

    reasoning: str
    state: str
    reward: float
    done: bool


def last_line(state: str) -> str:
    """The line of a state that changes from step to step (what came first, such as a map, does not)."""
    return state.rsplit("\n", 1)[-1]


def abridge(before: str, after: str) -> str:
    """A state as a dream writes it: where only its first word is new, that word and `...` for the rest.

    States open with what the last action did, so an action that changed nothing costs a few tokens, not a whole state.
    """
    first, _, rest = after.partition(" ")
    return f"{first} {REST}" if rest and rest == last_line(before).partition(" ")[2] else after


def unabridge(before: str, written: str) -> str:
    """The whole state of one that `abridge` shortened.

    Raises:
        ParseError: the state before has no rest to go on with.
    """
    first, _, rest = written.partition(" ")
    if rest != REST:
        return written
    kept = last_line(before).partition(" ")[2]
    if not kept:
        raise ParseError(f"'{written}' shortens a state, but the one before is one word")
    return f"{first} {kept}"


def in_full(task: Task, state: str) -> str:
    """A state, below what the task's first state alone tells (all but its last line, such as a map)."""
    told, newline, _ = task.first_state.rpartition("\n")
    return state if state.startswith(told + newline) else f"{told}\n{state}"


def opening(task: Task, state: str) -> str:
    """The head of a dream's first message."""
    return f"dream {task.instruction}\n{state}"


def query(action: str, demos: Sequence[Demonstration]) -> str:
    """The part of a message that asks for one step."""
    shown = "".join(
        f"like {last_line(d.state)} > {d.action} = {last_line(abridge(d.state, d.next_state))}\n"
        for d in reversed(demos)
    )
    return f"{shown}> {one_line(action)}"


def first_message(task: Task, state: str, action: str, demos: Sequence[Demonstration]) -> str:
    """The whole first message: the task, a state in full and the first query."""
    return f"{opening(task, in_full(task, state))}\n{query(action, demos)}"


def ask(
    config: WorldConfig,
    chat: ChatFormat,
    transcript: list[int],
    task: Task,
    state: str,
    action: str,
    demos: Sequence[Demonstration],
) -> list[int]:
    """Token ids that ask for one step: the dream so far (`transcript`) and a question or, without it, all anew."""
    if transcript and config.history:
        return transcript + chat.turn(query(action, demos))
    return begin(config, chat, first_message(task, state, action, demos))


def begin(config: WorldConfig, chat: ChatFormat, message: str) -> list[int]:
    """Token ids of a conversation's first message, below the model's instructions where it has any."""
    system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    return chat.start([*system, {"role": "user", "content": message}])


def one_line(text: str) -> str:
    """Free text as one bounded line, so that an action cannot pose as another field."""
    return " ".join(text.split())[:500]


def answer_parts(transition: Transition) -> tuple[str, str, str]:
    """(reasoning, state, outcome) as the experience model must write them; joined, they are the answer."""
    reasoning = f"{transition.reasoning}\n" if transition.reasoning else ""
    outcome = f"\nreward={transition.reward:g} done={'yes' if transition.done else 'no'}"
    return reasoning, f"state: {abridge(transition.state, transition.next_state)}", outcome


def parse_answer(text: str, before: str) -> DreamStep:
    """Read a dream step that was taken in the state `before`.

    Takes time in proportion to the text, whatever stands there.

    Raises:
        ParseError: no state, reward or done where they belong, an empty state, or an endless answer or reward.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise ParseError(f"the answer has {len(text)} characters, more than {MAX_ANSWER_CHARS}")
    head, _, tail = text.rpartition("\nreward=")
    reasoning, opened, written = head.partition("state: ")
    outcome, state = _OUTCOME.match(tail), written.strip()
    if outcome is None or not opened:
        raise ParseError(f"no 'state: … reward=… done=…' in {text[-200:]!r}")
    if not state:
        raise ParseError("the next state is empty")
    reward = float(outcome["reward"])
    if abs(reward) > MAX_REWARD:
        raise ParseError(f"a reward of {reward:g} is more than a float32 holds")
    return DreamStep(reasoning.strip(), unabridge(before, state), reward, outcome["done"] == "yes")


def vary_message(parent: Task) -> str:
    """Ask the task generator for a variation; the answer is `edits` of its parent, or `whole`."""
    return f"vary {parent.instruction}\n{parent.first_state}"


def whole(instruction: str, first_state: str) -> str:
    """A varied task written out: `task: ` and its instruction on one line, then its first state."""
    return f"task: {one_line(instruction)}\n{first_state}"


def edits(changes: Sequence[Edit]) -> str:
    """A variation by what changes in its parent: `replace coin in hall => coin in attic`, one a line."""
    return "\n".join(f"replace {old} => {new}" for old, new in changes)


def parse_variation(text: str, parent: Task) -> tuple[str, str]:
    """(instruction, first state) of a variation, whichever way it is written.

    Raises:
        ParseError: one of both is missing, or an edit changes nothing or what does not stand there exactly once.
    """
    text = text.strip()
    if text.startswith("task: "):
        instruction, _, first_state = text.removeprefix("task: ").partition("\n")
    else:
        changes = [_EDIT.fullmatch(line) for line in text.split("\n")]
        if None in changes:
            raise ParseError(f"neither 'task: …' nor 'replace OLD => NEW' in every line: {text[-200:]!r}")
        instruction, first_state = edited(parent, [(c["old"], c["new"]) for c in changes if c])
    if not instruction.strip() or not first_state.strip():
        raise ParseError("a task needs an instruction and a first state")
    return instruction.strip(), first_state.strip()


def edited(parent: Task, changes: Sequence[Edit]) -> tuple[str, str]:
    """(instruction, first state) of a task after edits, one after the other; raises as `parse_variation`."""
    parts = [parent.instruction, parent.first_state]
    for old, new in changes:
        words = re.compile(rf"(?<!\S){re.escape(old)}(?!\S)")
        found = sum(len(words.findall(part)) for part in parts)
        if found != 1 or old == new:
            raise ParseError(f"'{old}', which the task has {found} times, cannot become '{new}'")
        parts = [new.join(words.split(part)) for part in parts]
    return parts[0], parts[1]


def parse_text(text: str, what: str) -> str:
    """A non-empty answer without the structure of a dream step (an invented task).

    Raises:
        ParseError: it is empty or endless.
    """
    text = text.strip()
    if not text or len(text) > MAX_ANSWER_CHARS:
        raise ParseError(f"{what} is empty or too long")
    return text
