"""MapReader: fetch the coin from one room and bring it to the box in another, with a map of the rooms."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.textworld import DIRECTIONS, TextWorldGame, opposite
from dreamgym.types import Task, Transition

_MOVES = tuple(f"move {d}" for d in DIRECTIONS)
_DEEDS = ("take coin", "put coin in box")
_NEEDLESS = ("read map", "look around", "take map", "put map in box", "open box", "take box")
_NONSENSE = ("move", "move coin", "move in box", "take north", "take", "put coin", "put north in box", "coin", "wall")
COMMANDS = (*_MOVES, *_MOVES, *_MOVES, *_DEEDS, *_DEEDS, *_DEEDS, *_NEEDLESS, *_NONSENSE)

_GOAL = re.compile(r"located in the (.+?), and put it into the box found in the (.+?)\.")
_ROOM = re.compile(r"You are in the (.+?)\.")
_EXIT = re.compile(r"To the (North|East|South|West) you see the (.+?)\.")
_MAP_LINE = re.compile(r"The (.+?) connects to the (.+?)\.")
_STATE = re.compile(
    r"(?P<what>\S+) at (?P<room>\S+) has (?P<has>\S+) "
    r"north (?P<north>\S+) east (?P<east>\S+) south (?P<south>\S+) west (?P<west>\S+) holds (?P<holds>\S+)$"
)
_INSTRUCTION = re.compile(r"(\S+)'s coin to (\S+)'s box")


def _name(room: str) -> str:
    """A room as one word."""
    return room.strip().replace(" ", "-")


class MapReader(TextWorldGame):
    """The abstract state is one line of always the same shape, after the map in the first state.

    `moved at kitchen has coin north wall east hall south wall west wall holds nothing`: first what the last
    action did (moved, taken, solved, same where it changed nothing, refused where the game does not know it
    there), then the room, what it has, the four directions, and what is held. The goal reads
    `kitchen's coin to hall's box`.
    """

    game: ClassVar[str] = "mapreader"
    defaults: ClassVar[dict[str, int]] = {
        "numLocations": 4,
        "maxDistanceApart": 2,
        "includeDoors": 0,
        "maxDistractorItemsPerLocation": 0,
        "limitInventorySize": 0,
    }

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self._here: dict[str, str] = {}

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        """The line; `expert_action` finds its fields in `_here`."""
        look = info["look"]
        exits = {d.lower(): _name(r) for d, r in _EXIT.findall(look)}
        here = {
            "room": _name(_ROOM.search(look).group(1)),  # type: ignore[union-attr]
            "has": "box" if "a box" in look else "coin" if "a coin" in look else "nothing",
            **{d: exits.get(d, "wall") for d in DIRECTIONS},
        }
        here["holds"] = "coin" if "a coin" in info["inventory"] else "nothing"
        if first:
            what = "moved"
        elif info["tasksuccess"]:
            what = "solved"
        elif here["room"] != self._here["room"]:
            what = "moved"
        elif here["holds"] != self._here["holds"]:
            what = "taken"
        else:
            what = "same" if changed else "refused"
        self._here = here
        ways = " ".join(f"{d} {here[d]}" for d in DIRECTIONS)
        line = f"{what} at {here['room']} has {here['has']} {ways} holds {here['holds']}"
        return f"{self._map()}\n{line}" if first else line

    def instruct(self, info: dict[str, Any]) -> str:
        coin, box = _GOAL.search(info["taskDescription"]).groups()  # type: ignore[union-attr]
        return f"{_name(coin)}'s coin to {_name(box)}'s box"

    def _map(self) -> str:
        _, _, _, info = self._running().step("read map")
        rooms = _MAP_LINE.findall(info["observation"])
        joined = [(_name(a), [_name(r) for r in re.split(r", and |, | and ", b.replace("the ", ""))]) for a, b in rooms]
        return "map " + " ; ".join(f"{a}: {' '.join(b)}" for a, b in joined)

    def commands(self) -> list[str]:
        """Moves and deeds most often; most of the rest is refused."""
        return list(COMMANDS)

    def valid_actions(self) -> list[str]:
        """What changes something here."""
        return [a for a in super().valid_actions() if a in _MOVES or a in _DEEDS]

    def expert_action(self) -> str:
        """The next step of a shortest way, from any room, by the map and the exits in sight."""
        return best_action(self._goal, self._graph, self._here)

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        state, info = super().reset(task)
        self._goal, self._graph = parse_goal(info["instruction"]), parse_map(state)
        return state, info

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: look the action up in the state and the map before writing what follows."""
        return explain(task, history, transition)


def parse_goal(instruction: str) -> tuple[str, str]:
    """(room of the coin, room of the box)."""
    found = _INSTRUCTION.search(instruction)
    if found is None:
        raise ValueError(f"'{instruction}' is no mapreader goal")
    return found.group(1), found.group(2)


def parse_map(first_state: str) -> dict[str, list[str]]:
    """Room -> rooms next to it, from the first state."""
    text = first_state.split("\n")[0].removeprefix("map ")
    return {room.strip(): rooms.split() for room, _, rooms in (part.partition(": ") for part in text.split(" ; "))}


def parse_state(state: str) -> dict[str, str]:
    """The fields of a state's line: what, room, has, north, east, south, west, holds."""
    found = _STATE.match(state.split("\n")[-1])
    if found is None:
        raise ValueError(f"'{state}' is no mapreader state")
    return found.groupdict()


def best_action(goal: tuple[str, str], graph: dict[str, list[str]], here: dict[str, str]) -> str:
    """The first action of a shortest way to the coin, or with the coin to the box."""
    holds = here["holds"] == "coin"
    if here["has"] == "coin" and not holds:
        return "take coin"
    target = goal[1] if holds else goal[0]
    if here["room"] == target:
        return "put coin in box" if holds else "look around"
    distance = {target: 0}
    queue = deque([target])
    while queue:
        room = queue.popleft()
        for other in graph.get(room, []):
            if other not in distance:
                distance[other] = distance[room] + 1
                queue.append(other)
    ways = [(distance.get(here[d], 99), i, d) for i, d in enumerate(DIRECTIONS) if here[d] != "wall"]
    return f"move {min(ways)[2]}"


def explain(task: Task, history: Sequence[Transition], transition: Transition) -> str:
    """R* of a mapreader step: what the state, the goal and the map say, in the words in which they say it.

    A look-up that repeats the word before the looked-up one is the easiest for a transformer to learn.
    """
    here, action = parse_state(transition.state), transition.action
    if action in _MOVES:
        return _explain_move(task, history, transition.state, action.removeprefix("move "))
    if action == "take coin":
        return f"has {here['has']} " + ("taken" if here["has"] == "coin" else "refused")
    if action == "put coin in box":
        solved = here["holds"] == "coin" and here["has"] == "box"
        return f"holds {here['holds']} has {here['has']} " + ("solved" if solved else "refused")
    return transition.next_state.split()[0]


def _explain_move(task: Task, history: Sequence[Transition], state: str, direction: str) -> str:
    here = parse_state(state)
    room = here[direction]
    if room == "wall":
        return f"{direction} wall refused"
    coin, box = parse_goal(task.instruction)
    has = "box" if room == box else "coin" if room == coin and here["holds"] == "nothing" else "nothing"
    if any(parse_state(t.state)["room"] == room for t in history):
        return f"{direction} {room} seen {room}'s {has}"
    joined = " ".join(parse_map(history[0].state if history else state).get(room, []))
    return f"{direction} {room} new {room}'s {has} {room}: {joined} {opposite(direction)} {here['room']}"
