"""MapReader: fetch the coin from one room and bring it to the box in another, with a map of the rooms."""

from __future__ import annotations

import random
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from dreamgym.envs.textworld import DIRECTIONS, TextWorldGame, opposite
from dreamgym.types import Edit, Task, Transition

_MOVES = tuple(f"move {d}" for d in DIRECTIONS)
_DEEDS = ("take coin", "put coin in box")
_NEEDLESS = ("read map", "look around", "take map", "put map in box", "open box", "take box")
_NONSENSE = ("move", "move coin", "move in box", "take north", "take", "put coin", "put north in box", "coin", "wall")
COMMANDS = (*_MOVES, *_MOVES, *_MOVES, *_MOVES, *_DEEDS, *_DEEDS, *_DEEDS, *_NEEDLESS, *_NONSENSE)

_GOAL = re.compile(r"located in the (.+?), and put it into the box found in the (.+?)\.")
_ROOM = re.compile(r"You are in the (.+?)\.")
_EXIT = re.compile(r"To the (North|East|South|West) you see the (.+?)\.")
_MAP_LINE = re.compile(r"The (.+?) connects to the (.+?)\.")
_STATE = re.compile(
    r"(?P<what>\S+) at (?P<room>\S+) has (?P<has>\S+) "
    r"north (?P<north>\S+) east (?P<east>\S+) south (?P<south>\S+) west (?P<west>\S+) holds (?P<holds>\S+)$"
)


def _name(room: str) -> str:
    """A room as one word."""
    return room.strip().replace(" ", "-")


class Room(NamedTuple):
    """What the map says of a room: `coin`, `box` or `nothing`, and the rooms next to it."""

    has: str
    joins: list[str]


_NOWHERE = Room("nothing", [])


class MapReader(TextWorldGame):
    """The abstract state is one line of always the same shape, after the map in the first state.

    `moved at kitchen has coin north wall east hall south wall west wall holds nothing`: first what the last
    action did (moved, taken, solved, same where it changed nothing, refused where the game does not know it
    there), then the room, what it has, the four directions, and what is held. The map lists every room with
    what the goal says it has and the rooms next to it, but not in which direction: `kitchen: coin hall`.
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
        self._graph: dict[str, Room] = {}

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        """The line; `expert_action` finds its fields in `_here`."""
        look = info["look"]
        exits = {d.lower(): _name(r) for d, r in _EXIT.findall(look)}
        here = {
            "room": _name(_ROOM.search(look).group(1)),  # type: ignore[union-attr]
            "has": "box" if " box" in look else "coin" if "a coin" in look else "nothing",
            **{d: exits.get(d, "wall") for d in DIRECTIONS},
            "holds": "coin" if "a coin" in info["inventory"] else "nothing",
        }
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
        return f"{self._map(info)}\n{line}" if first else line

    def instruct(self, info: dict[str, Any]) -> str:
        """The goal: `coin in kitchen to box in hall`."""
        coin, box = _goal_rooms(info)
        return f"coin in {coin} to box in {box}"

    def _map(self, info: dict[str, Any]) -> str:
        coin, box = _goal_rooms(info)
        _, _, _, info = self._running().step("read map")
        rooms = _MAP_LINE.findall(info["observation"])
        joined = {_name(a): [_name(r) for r in re.split(r", and |, | and ", b.replace("the ", ""))] for a, b in rooms}
        has = {coin: "coin", box: "box"}
        return "map " + " ; ".join(f"{a}: {has.get(a, 'nothing')} {' '.join(b)}" for a, b in joined.items())

    def commands(self) -> list[str]:
        """Moves and deeds most often; most of the rest is refused."""
        return list(COMMANDS)

    def valid_actions(self) -> list[str]:
        """What changes something here."""
        return [a for a in super().valid_actions() if a in _MOVES or a in _DEEDS]

    def expert_action(self) -> str:
        """The next step of a shortest way, from any room, by the map and the exits in sight."""
        return best_action(self._graph, self._here)

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        state, info = super().reset(task)
        self._graph = parse_map(state)
        return state, info

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: look the action up in the state and the map before writing what follows."""
        return explain(history, transition)

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: what is looked for, the rooms on a shortest way there, and which exit is next."""
        first = history[0].state if history else task.first_state
        return plan(parse_map(first), parse_state(history[-1].next_state if history else first), action)

    @staticmethod
    def check(task: Task, history: Sequence[Transition], transition: Transition) -> tuple[float, bool]:
        """The rule for what a dreamed step comes to: a win where the coin is put into the box, and was taken before.

        The agent is where the map and the exits in sight have led it, whatever a dreamed state says of its room.
        """
        won = delivered(task.first_state, [*history, transition])
        return float(won), won

    @staticmethod
    def vary(task: Task, rng: random.Random) -> list[Edit]:
        """The rule for variations: the coin in another room, no nearer to the box than it was where there is one."""
        graph = parse_map(task.first_state)
        box, before = _room_with(graph, "box"), _room_with(graph, "coin")
        away = _distances(graph, box)
        rooms = [name for name in graph if name not in (box, before) and name in away]
        if not rooms:
            return []
        after = rng.choice([name for name in rooms if away[name] >= away[before]] or rooms)
        return [
            (f"{after}: nothing", f"{after}: coin"),
            (f"{before}: coin", f"{before}: nothing"),
            (f"coin in {before}", f"coin in {after}"),
        ]


def _goal_rooms(info: dict[str, Any]) -> tuple[str, str]:
    """(room of the coin, room of the box)."""
    coin, box = _GOAL.search(info["taskDescription"]).groups()  # type: ignore[union-attr]
    return _name(coin), _name(box)


def parse_map(first_state: str) -> dict[str, Room]:
    """The rooms of the map in a first state, by name."""
    rooms = {}
    for part in first_state.split("\n")[0].removeprefix("map ").split(" ; "):
        name, _, rest = part.partition(": ")
        has, *joins = rest.split() or ["nothing"]
        rooms[name.strip()] = Room(has, joins)
    return rooms


def parse_state(state: str) -> dict[str, str]:
    """The fields of a state's line: what, room, has, north, east, south, west, holds."""
    found = _STATE.match(state.split("\n")[-1])
    if found is None:
        raise ValueError(f"'{state}' is no mapreader state")
    return found.groupdict()


def best_action(graph: dict[str, Room], here: dict[str, str]) -> str:
    """The first action of a shortest way to the coin, or with the coin to the box."""
    wanted = "box" if here["holds"] == "coin" else "coin"
    target = _room_with(graph, wanted)
    if here["room"] == target:
        return "put coin in box" if wanted == "box" else "take coin"
    distance = _distances(graph, target)
    ways = [(distance.get(here[d], 99), i, d) for i, d in enumerate(DIRECTIONS) if here[d] != "wall"]
    return f"move {min(ways)[2]}"


def delivered(first_state: str, steps: Sequence[Transition]) -> bool:
    """Whether the last of these steps puts the coin into the box, on a way that the map of the first state allows.

    The exits of a room are those that the first state of it told.
    """
    start = _STATE.match(first_state.split("\n")[-1])
    if start is None:
        return False
    graph, room, held = parse_map(first_state), start["room"], False
    exits = {room: start.groupdict()}
    for step in steps:
        if seen := _STATE.match(step.state.split("\n")[-1]):
            exits.setdefault(seen["room"], seen.groupdict())
        there = graph.get(room, _NOWHERE)
        if step.action in _MOVES:
            following = exits.get(room, {}).get(step.action.removeprefix("move "))
            room = following if following in there.joins else room
        elif step.action == "take coin":
            held = held or there.has == "coin"
    return steps[-1].action == "put coin in box" and held and graph.get(room, _NOWHERE).has == "box"


def plan(graph: dict[str, Room], here: dict[str, str], action: str) -> str:
    """What an expert thinks before this action: what it looks for and where, the rooms on the way, and the exit.

    `coin kitchen ; hall attic kitchen ; attic north` before `move north` in the hall; `coin here` where it is.
    """
    wanted = "box" if here["holds"] == "coin" else "coin"
    if action not in _MOVES:
        return f"{wanted} here"
    target, direction = _room_with(graph, wanted), action.removeprefix("move ")
    distance = _distances(graph, target)
    way = [here["room"], here[direction]]
    while way[-1] != target:
        way.append(min(graph[way[-1]].joins, key=lambda room: distance.get(room, 99)))
    return f"{wanted} {target} ; {' '.join(way)} ; {way[1]} {direction}"


def _room_with(graph: dict[str, Room], thing: str) -> str:
    return next(name for name, room in graph.items() if room.has == thing)


def _distances(graph: dict[str, Room], target: str) -> dict[str, int]:
    """Rooms -> moves from there to the target; those without a way there are left out."""
    distance = {target: 0}
    queue = deque([target])
    while queue:
        room = queue.popleft()
        for other in graph[room].joins:
            if other not in distance:
                distance[other] = distance[room] + 1
                queue.append(other)
    return distance


def explain(history: Sequence[Transition], transition: Transition) -> str:
    """R* of a mapreader step: what the state, the goal and the map say, in the words in which they say it.

    A look-up that repeats the word before the looked-up one is the easiest for a transformer to learn.
    """
    here, action = parse_state(transition.state), transition.action
    if action in _MOVES:
        first = history[0].state if history else transition.state
        return _explain_move(parse_map(first), here, action.removeprefix("move "))
    verdict = transition.next_state.split()[0]
    return f"at {here['room']} has {here['has']} holds {here['holds']} {verdict}" if action in _DEEDS else verdict


def _explain_move(graph: dict[str, Room], here: dict[str, str], direction: str) -> str:
    name = here[direction]
    if name == "wall":
        return f"{direction} wall refused"
    room = graph[name]
    return f"{direction} {name} {name}: {room.has} {' '.join(room.joins)} {opposite(direction)} {here['room']}"
