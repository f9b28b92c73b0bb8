"""MapReader: fetch the coin from one room and bring it to the box in another, with a map of the rooms."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.textworld import TextWorldGame
from dreamgym.types import Task, Transition

DIRECTIONS = ("north", "east", "south", "west")
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
    r"at (?P<room>\S+) has (?P<has>\S+) "
    r"north (?P<north>\S+) east (?P<east>\S+) south (?P<south>\S+) west (?P<west>\S+)$"
)
_INSTRUCTION = re.compile(r"(\S+)'s coin to (\S+)'s box")


def _name(room: str) -> str:
    """A room as one word."""
    return room.strip().replace(" ", "-")


class MapReader(TextWorldGame):
    """The abstract state says what an action changed, in one short line.

    Arriving somewhere: `at kitchen has coin north wall east hall south wall west wall`. Taking the coin:
    `holds coin`. An action that the game refuses: `refused`; one that changes nothing: `same`. The first state
    has the map before its line. The goal reads `kitchen's coin to hall's box`.
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
        self._holds = False

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        """The line; `expert_action` is left the whole situation in `_here` and `_holds`."""
        look = info["look"]
        exits = {d.lower(): _name(r) for d, r in _EXIT.findall(look)}
        here = {
            "room": _name(_ROOM.search(look).group(1)),  # type: ignore[union-attr]
            "has": "box" if "a box" in look else "coin" if "a coin" in look else "nothing",
            **{d: exits.get(d, "wall") for d in DIRECTIONS},
        }
        holds = "a coin" in info["inventory"]
        moved = first or here["room"] != self._here["room"]
        took = not first and holds and not self._holds
        solved = bool(info["tasksuccess"])
        self._here, self._holds = here, holds
        line = f"at {here['room']} has {here['has']} " + " ".join(f"{d} {here[d]}" for d in DIRECTIONS)
        if first:
            return f"{self._map()}\n{line}"
        return line if moved else "holds coin" if took else "solved" if solved else "same" if changed else "refused"

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
        return best_action(self._goal, self._graph, self._here, self._holds)

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
    """The fields of a line that describes a room: room, has, north, east, south, west."""
    found = _STATE.match(state.split("\n")[-1])
    if found is None:
        raise ValueError(f"'{state}' describes no mapreader room")
    return found.groupdict()


def best_action(goal: tuple[str, str], graph: dict[str, list[str]], here: dict[str, str], holds: bool) -> str:
    """The first action of a shortest way to the coin, or with the coin to the box."""
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
    lines = [*(t.state for t in history), transition.state]
    visited = [parse_state(line) for line in lines if line.split("\n")[-1].startswith("at ")]
    here, holds = visited[-1], "holds coin" in lines
    action = transition.action
    has = "nothing" if holds and here["has"] == "coin" else here["has"]
    if action in _MOVES:
        return _explain_move(task, lines[0], visited, holds, action.removeprefix("move "))
    if action == "take coin":
        return f"has {has} " + ("taken" if has == "coin" else "refused")
    if action == "put coin in box":
        held = "coin" if holds else "nothing"
        return f"holds {held} has {has} " + ("solved" if holds and has == "box" else "refused")
    return transition.next_state


def _explain_move(task: Task, first: str, visited: Sequence[dict[str, str]], holds: bool, direction: str) -> str:
    room = visited[-1][direction]
    if room == "wall":
        return f"{direction} wall refused"
    coin, box = parse_goal(task.instruction)
    has = "box" if room == box else "coin" if room == coin and not holds else "nothing"
    if any(line["room"] == room for line in visited):
        return f"{direction} {room} seen {room}'s {has}"
    joined = " ".join(parse_map(first).get(room, []))
    back = DIRECTIONS[(DIRECTIONS.index(direction) + 2) % 4]
    return f"{direction} {room} new {room}'s {has} {room}: {joined} {back} {visited[-1]['room']}"
