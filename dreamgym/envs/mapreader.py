"""MapReader: fetch the coin from one room and bring it to the box in another, with a map of the rooms."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.textworld import TextWorldGame
from dreamgym.types import Task, Transition

DIRECTIONS = ("north", "east", "south", "west")
COMMANDS = (
    *(f"move {d}" for d in DIRECTIONS),
    "take coin",
    "put coin in box",
    "read map",
    "look around",
    "take map",
    "put map in box",
    "open box",
)

_GOAL = re.compile(r"located in the (.+?), and put it into the box found in the (.+?)\.")
_ROOM = re.compile(r"You are in the (.+?)\.")
_EXIT = re.compile(r"To the (North|East|South|West) you see the (.+?)\.")
_MAP_LINE = re.compile(r"The (.+?) connects to the (.+?)\.")
_STATE = re.compile(
    r"(?:refused )?at (?P<room>\S+) has (?P<has>\S+) north (?P<north>\S+) east (?P<east>\S+) "
    r"south (?P<south>\S+) west (?P<west>\S+) holds (?P<holds>\S+)$"
)
_INSTRUCTION = re.compile(r"(\S+) has coin (\S+) has box")


def _name(room: str) -> str:
    """A room as one word."""
    return room.strip().replace(" ", "-")


class MapReader(TextWorldGame):
    """The abstract state is one line: the room, what it has, the four directions, what is held.

    `at kitchen has coin north wall east hall south wall west wall holds nothing`; an action that the game
    refuses leads to the same line with `refused` before it. The first state has the map before that line.
    """

    game: ClassVar[str] = "mapreader"
    defaults: ClassVar[dict[str, int]] = {
        "numLocations": 4,
        "maxDistanceApart": 2,
        "includeDoors": 0,
        "maxDistractorItemsPerLocation": 0,
        "limitInventorySize": 0,
    }

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        look, inventory = info["look"], info["inventory"]
        room = _name(_ROOM.search(look).group(1))  # type: ignore[union-attr]
        exits = {d.lower(): _name(r) for d, r in _EXIT.findall(look)}
        has = "box" if "a box" in look else "coin" if "a coin" in look else "nothing"
        holds = "coin" if "a coin" in inventory else "nothing"
        ways = " ".join(f"{d} {exits.get(d, 'wall')}" for d in DIRECTIONS)
        line = f"at {room} has {has} {ways} holds {holds}"
        return f"{self._map()}\n{line}" if first else line if changed else f"refused {line}"

    def instruct(self, info: dict[str, Any]) -> str:
        coin, box = _GOAL.search(info["taskDescription"]).groups()  # type: ignore[union-attr]
        return f"{_name(coin)} has coin {_name(box)} has box"

    def _map(self) -> str:
        _, _, _, info = self._running().step("read map")
        rooms = _MAP_LINE.findall(info["observation"])
        joined = [(_name(a), [_name(r) for r in re.split(r", and |, | and ", b.replace("the ", ""))]) for a, b in rooms]
        return "map " + " ; ".join(f"{a} : {' '.join(b)}" for a, b in joined)

    def commands(self) -> list[str]:
        return list(COMMANDS)

    def valid_actions(self) -> list[str]:
        return [a for a in super().valid_actions() if a.startswith("move ") or "coin" in a]

    def expert_action(self) -> str:
        """The next step of a shortest way, from any room, by the map and the exits in sight."""
        return best_action(self._goal, self._graph, parse_state(self._line))

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        state, info = super().reset(task)
        self._goal, self._graph = parse_goal(info["instruction"]), parse_map(state)
        self._line = state
        return state, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        result = super().step(action)
        self._line = result[0]
        return result

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
    return {room.strip(): rooms.split() for room, _, rooms in (part.partition(" : ") for part in text.split(" ; "))}


def parse_state(state: str) -> dict[str, str]:
    """The fields of a state's last line: room, has, north, east, south, west, holds."""
    found = _STATE.match(state.split("\n")[-1])
    if found is None:
        raise ValueError(f"'{state}' is no mapreader state")
    return found.groupdict()


def best_action(goal: tuple[str, str], graph: dict[str, list[str]], here: dict[str, str]) -> str:
    """The first action of a shortest way to the coin, or with the coin to the box."""
    coin, box = goal
    carrying = here["holds"] == "coin"
    if here["has"] == "coin" and not carrying:
        return "take coin"
    target = box if carrying else coin
    if here["room"] == target:
        return "put coin in box" if carrying else "look around"
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

    A look-up that repeats the words before the looked-up one is the easiest for a transformer to learn.
    """
    here = parse_state(transition.state)
    action = transition.action
    direction = action.removeprefix("move ")
    if action.startswith("move ") and direction in DIRECTIONS:
        return _explain_move(task, history, transition, direction)
    if action == "take coin":
        return f"has {here['has']} " + ("holds coin" if here["has"] == "coin" else "refused")
    if action == "put coin in box":
        solved = here["holds"] == "coin" and here["has"] == "box"
        return f"holds {here['holds']} has {here['has']} " + ("solved" if solved else "refused")
    return "refused" if transition.next_state.startswith("refused") else "same"


def _explain_move(task: Task, history: Sequence[Transition], transition: Transition, direction: str) -> str:
    room = parse_state(transition.state)[direction]
    if room == "wall":
        return f"{direction} wall refused"
    if any(parse_state(t.state)["room"] == room for t in history):
        return f"{direction} {room} seen"
    first = history[0].state if history else transition.state
    joined = " ".join(parse_map(first).get(room, []))
    has = dict(zip(parse_goal(task.instruction), ("coin", "box"), strict=True)).get(room, "nothing")
    back = DIRECTIONS[(DIRECTIONS.index(direction) + 2) % 4]
    return f"{direction} {room} new {room} has {has} {room} : {joined} {back} {parse_state(transition.state)['room']}"
