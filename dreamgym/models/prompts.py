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
from dreamgym.models.abridged import ParseError, abridge, last_line, same_rest, unabridge
from dreamgym.models.answers.calls import Tool, told
from dreamgym.models.chat import ChatFormat
from dreamgym.types import MAX_REWARD, MAX_TEXT, Edit, Task, Transition

MAX_ANSWER_CHARS = 2 * MAX_TEXT
_EDIT = re.compile(r"replace (?P<old>.+?) => (?P<new>.+)")
_STATE = "state: "
_OUTCOME = re.compile(r"(?P<reward>-?[0-9]{1,40}(?:\.[0-9]{1,40})?(?:e[-+]?[0-9]{1,3})?) done=(?P<done>yes|no)\s*\Z")


class Demonstration(Protocol):
    """What a retrieved transition must offer to be shown (equation 4 of the paper: d_1 .. d_k)."""

    @property
    def state(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def next_state(self) -> str: ...
    @property
    def reward(self) -> float: ...
    @property
    def done(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class DreamStep:
    """A parsed dream step: R_t, s_{t+1}, r_{t+1}, done."""

    reasoning: str
    state: str
    reward: float
    done: bool


def in_full(task: Task, state: str, told: Sequence[str] = ()) -> str:
    """A state, with lines before it, below what the first state alone tells (all but its last line, such as a map)."""
    always, newline, _ = task.first_state.rpartition("\n")
    head = [always] if newline and not state.startswith(always + newline) else []
    return "\n".join([*head, *told, state])


def opening(task: Task, state: str, tools: Sequence[Tool] = ()) -> str:
    """The head of a dream's first message: the goal, the tools that the agent has, and the state."""
    return "\n".join(line for line in (f"dream {task.instruction}", told(tools), state) if line)


def query(action: str, demos: Sequence[Demonstration], outcomes: bool = False) -> str:
    """The part of a message that asks for one step; an action's further lines are indented, to pose as nothing else.

    With `outcomes` a demonstration also shows its reward and end, as an answer writes them.
    """
    shown = [(*_told(d.state, d.next_state), d) for d in reversed(demos)]
    likes = "".join(
        f"like {before} > {_indented(d.action)} = {after}{f' {_outcome(d)}' if outcomes else ''}\n"
        for before, after, d in shown
    )
    return f"{likes}> {_indented(action)}"


def _outcome(step: Demonstration) -> str:
    return f"reward={step.reward:g} done={'yes' if step.done else 'no'}"


def changed_lines(before: str, after: str) -> list[str]:
    """The lines of a state that the one before has not."""
    known = set(before.split("\n"))
    return [line for line in after.split("\n") if line not in known]


def _told(before: str, after: str) -> tuple[str, str]:
    """What of two states a demonstration shows: their last lines, or the lines that changed where those are alike."""
    came = changed_lines(before, after)
    if last_line(before) != last_line(after) or not came:
        return last_line(before), same_rest(before, after) or last_line(after)
    return " | ".join(changed_lines(after, before)) or last_line(before), " | ".join(came)


def _indented(action: str) -> str:
    return action.replace("\n", "\n  ")


def first_message(
    task: Task,
    state: str,
    action: str,
    demos: Sequence[Demonstration],
    tools: Sequence[Tool] = (),
    outcomes: bool = False,
) -> str:
    """The whole first message: the task, a state in full and the first query."""
    return f"{opening(task, in_full(task, state), tools)}\n{query(action, demos, outcomes)}"


def ask(
    config: WorldConfig,
    chat: ChatFormat,
    transcript: list[int],
    task: Task,
    state: str,
    action: str,
    demos: Sequence[Demonstration],
    tools: Sequence[Tool] = (),
    outcomes: bool = False,
) -> list[int]:
    """Token ids that ask for one step: the dream so far (`transcript`) and a question or, without it, all anew."""
    if transcript and config.history:
        return transcript + chat.turn(query(action, demos, outcomes))
    return begin(config, chat, first_message(task, state, action, demos, tools, outcomes))


def recorded(
    config: WorldConfig, chat: ChatFormat, task: Task, steps: Sequence[Transition], tools: Sequence[Tool] = ()
) -> list[int]:
    """The dream so far, where it goes on from real steps; without demonstrations."""
    ids: list[int] = []
    for step in steps:
        if not step.malformed:  # the world was not asked
            ids = ask(config, chat, ids, task, step.state, step.action, (), tools) + chat.answer(
                "".join(answer_parts(step))
            )
    return ids


def begin(config: WorldConfig, chat: ChatFormat, message: str) -> list[int]:
    """Token ids of a conversation's first message, below the model's instructions where it has any."""
    system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    return chat.start([*system, {"role": "user", "content": message}])


def answer_parts(transition: Transition) -> tuple[str, str, str]:
    """(reasoning, state, outcome) as the experience model must write them; joined, they are the answer.

    Reasoning is one line, and does not begin as a state does: `parse_answer` reads all of it back.
    """
    reasoning = " ".join(transition.reasoning.split())
    if reasoning:
        reasoning = f" {reasoning}\n" if reasoning.startswith(_STATE) else f"{reasoning}\n"
    return reasoning, f"{_STATE}{abridge(transition.state, transition.next_state)}", f"\n{_outcome(transition)}"


def parse_answer(text: str, before: str) -> DreamStep:
    """Read a dream step that was taken in the state `before`.

    Takes time in proportion to the text, whatever stands there.

    Raises:
        ParseError: no state, reward or done where they belong, or an endless answer or reward.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise ParseError(f"the answer has {len(text)} characters, more than {MAX_ANSWER_CHARS}")
    head, _, tail = text.rpartition("\nreward=")
    reasoning, opened, state = f"\n{head}".partition(f"\n{_STATE}")
    outcome = _OUTCOME.match(tail)
    if outcome is None or not opened:
        raise ParseError(f"no 'state: … reward=… done=…' in {text[-200:]!r}")
    reward = float(outcome["reward"])
    if abs(reward) > MAX_REWARD:
        raise ParseError(f"a reward of {reward:g} is more than a float32 holds")
    return DreamStep(reasoning.strip(), unabridge(before, state), reward, outcome["done"] == "yes")


def vary_message(parent: Task) -> str:
    """Ask the task generator for a variation; the answer is `edits` of its parent, or `whole`."""
    return f"vary {parent.instruction}\n{parent.first_state}"


def whole(instruction: str, first_state: str) -> str:
    """A varied task written out: `task: ` and its instruction on one line, then its first state."""
    return f"task: {' '.join(instruction.split())}\n{first_state}"


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
