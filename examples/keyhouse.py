"""A small text game of your own kind: find the right key in a row of rooms and open the chest with it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from dreamgym.types import Edit, Fold, Task, Transition, stable_id

ROOMS = ("hall", "study", "attic", "cellar", "garden", "library")
COLOURS = ("red", "blue", "green", "gold")
FOLDS = {"train": range(600), "dev": range(600, 700), "test": range(700, 1000)}
HOUSES = max(fold.stop for fold in FOLDS.values())
COMMANDS = ("go west", "go east", *(f"take {colour} key" for colour in COLOURS), "open chest", "wait")

_LINE = re.compile(r"(?:refused )?at (\w+) holds (\w+)")


class KeyHouse:
    """Four rooms in a row, two keys, one chest.

    The first state describes the house, `rooms hall study attic cellar ; red in attic ; blue in hall ; chest in
    study`, then every state says where the agent is and what it holds, `at hall holds nothing`. An action that
    is not possible leads to the same line with `refused` before it. A hand holds one key: the next one taken
    sends the first back to its room.
    """

    def __init__(self) -> None:
        self._house: dict[str, Any] = {}
        self._at = 0
        self._holds = "nothing"

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        houses = _houses()
        numbers = list(FOLDS[fold])
        random.Random(f"{seed} {fold}").shuffle(numbers)
        return [_task(houses[number]) for number in numbers[:count]]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        self._house = json.loads(task.payload)
        self._at, self._holds = self._house["start"], "nothing"
        rooms, keys = self._house["rooms"], self._house["keys"]
        things = " ; ".join([*(f"{colour} in {rooms[at]}" for colour, at in keys.items()), f"chest in {self._chest}"])
        return f"rooms {' '.join(rooms)} ; {things}\n{self._line()}", {"success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        valid = action in KeyHouse.valid_actions(self)
        success = valid and action == "open chest"
        if valid and action.startswith("go "):
            self._at += 1 if action == "go east" else -1
        elif valid and action.startswith("take "):
            self._holds = action.split()[1]
        state = "chest open" if success else self._line() if valid else f"refused {self._line()}"
        return state, float(success), success, False, {"success": success, "valid": valid}

    def close(self) -> None:
        """Nothing to free."""

    # Optional from here on; each makes the seed data better.

    def valid_actions(self) -> list[str]:
        ways = (["go west"] if self._at > 0 else []) + (["go east"] if self._at < len(self._house["rooms"]) - 1 else [])
        keys = [f"take {c} key" for c, at in self._house["keys"].items() if at == self._at and c != self._holds]
        fits = self._room == self._chest and self._holds == self._house["opens"]
        return ways + keys + (["open chest"] if fits else [])

    def commands(self) -> list[str]:
        return list(COMMANDS)

    def expert_action(self) -> str:
        colour = self._house["opens"]
        has_key = self._holds == colour
        target = self._house["chest"] if has_key else self._house["keys"][colour]
        if self._at == target:
            return "open chest" if has_key else f"take {colour} key"
        return "go east" if target > self._at else "go west"

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """Look the action up in the house that the first state describes, before the state that follows."""
        row, where = _read((history[0] if history else transition).state)
        at, holds = _LINE.search(transition.state.split("\n")[-1]).groups()  # type: ignore[union-attr]
        verb, _, rest = transition.action.partition(" ")
        if verb == "go" and rest in ("east", "west"):
            to = row.index(at) + (1 if rest == "east" else -1)
            return f"{rest} of {at} is {row[to]}" if 0 <= to < len(row) else f"{at} is the {rest} end so refused"
        if verb == "take":
            colour = rest.removesuffix(" key")
            possible = where.get(colour) == at and colour != holds
            return f"{colour} is in {where.get(colour, 'no room')} so {'taken' if possible else 'refused'}"
        if transition.action == "open chest":
            needs = task.instruction.split()[-2]
            fits = where["chest"] == at and holds == needs
            return f"chest is in {where['chest']} needs {needs} holds {holds} so {'opened' if fits else 'refused'}"
        return "nothing to do so refused"

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """What is wanted next and where it is, beside where the agent is."""
        first = history[0].state if history else task.first_state
        _, where = _read(first)
        line = (history[-1].next_state if history else first).split("\n")[-1]
        at, holds = _LINE.search(line).groups()  # type: ignore[union-attr]
        needs = task.instruction.split()[-2]
        wanted = "chest" if holds == needs else needs
        return f"{wanted} is in {where[wanted]} and i am in {at}"

    @staticmethod
    def vary(task: Task, rng: random.Random) -> list[Edit]:
        """Another house from one that is known: a key lies elsewhere."""
        row, where = _read(task.first_state)
        chest = where.pop("chest")
        colour = rng.choice(sorted(where))
        free = [room for room in row if room not in (where[colour], chest)]
        return [(f"{colour} in {where[colour]}", f"{colour} in {rng.choice(free)}")]

    @property
    def _room(self) -> str:
        return str(self._house["rooms"][self._at])

    @property
    def _chest(self) -> str:
        return str(self._house["rooms"][self._house["chest"]])

    def _line(self) -> str:
        return f"at {self._room} holds {self._holds}"


def _read(first_state: str) -> tuple[list[str], dict[str, str]]:
    """The rooms from west to east, and in which of them the keys, by colour, and the chest are."""
    rooms, *things = first_state.split("\n")[0].removeprefix("rooms ").split(" ; ")
    return rooms.split(), dict(thing.split(" in ") for thing in things)


def _houses() -> list[dict[str, Any]]:
    """All houses of all folds, no two alike."""
    rng = random.Random("keyhouse")
    found: dict[str, dict[str, Any]] = {}
    while len(found) < HOUSES:
        key, chest = rng.sample(range(4), 2)
        opens, other = rng.sample(COLOURS, 2)
        house = {
            "rooms": rng.sample(ROOMS, 4),
            "keys": dict(sorted({opens: key, other: rng.randrange(4)}.items())),
            "opens": opens,
            "chest": chest,
            "start": rng.randrange(4),
        }
        found[json.dumps(house)] = house
    return list(found.values())


def _task(house: dict[str, Any]) -> Task:
    payload = json.dumps(house)
    return Task(stable_id(payload), "keyhouse", f"open the chest with the {house['opens']} key", payload)
