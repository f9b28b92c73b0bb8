"""What TextWorldExpress's coin and cookingworld share: a room in one line, and an expert that finds its way back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dreamgym.envs.textworld import DIRECTIONS, TextWorldGame, opposite, room_line
from dreamgym.types import Task, Transition

LOOKS = ("examine", "look", "inventory", "read", "task")

_DID = {
    **dict.fromkeys(("slice", "dice", "chop"), "cut"),
    **{"move": "moved", "open": "opened", "close": "closed", "take": "taken", "put": "put"},
    **{"cook": "cooked", "prepare": "prepared", "eat": "eaten"},
}
_ROOM = re.compile(r"You are in the (.+?)$")
_FILLER = re.compile(r"^(?:In (?:one|another) part of the room you see|There is also|You also see) ", re.I)
_EXIT = re.compile(r"(?:^|, )to the (north|east|south|west) you see (.+)$", re.I)
_ARTICLE = re.compile(r"^(?:an?|some|the|and) ", re.I)
_RECIPE = re.compile(r"meal of (.+?): ")
_TREATED = re.compile(r"^(?:(?:raw|chopped|sliced|diced|roasted|fried|grilled) )+")
_STATE = re.compile(r"^\S+ at (?P<room>.+?) sees (?P<sees>.+?) exits (?P<exits>.+?) holds (?P<holds>.+)$")


class RoomGame(TextWorldGame):
    """The abstract state is one line of always the same shape.

    `opened at kitchen sees stove; open fridge (carrot, milk); closed trash can exits north pantry holds knife`:
    first what the last action did (moved, opened, taken, …; same where it changed nothing, refused where it is not
    possible, solved or failed at the end), then the room, each thing with what is on or in it, exits, what is held.
    """

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self._rest = self._room = ""
        self._done = 0
        self._undo: list[str] = []

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        """The line; `expert_action` learns here what the last action did."""
        room, sees, exits = read_look(info["look"])
        held = [line.strip() for line in info["inventory"].splitlines() if line.startswith("  ")]
        holds = [bare(line) for line in held if "currently empty" not in line]
        rest = room_line(room, sees, exits, holds)
        if first:
            what, self._done, self._undo = "moved", 0, []
        else:
            what = self._what(info, rest, room, changed)
            self._follow(self._taken[-1], rest != self._rest)
        self._rest, self._room = rest, room
        return f"{what} {rest}"

    def _what(self, info: dict[str, Any], rest: str, room: str, changed: bool) -> str:
        if info["tasksuccess"]:
            return "solved"
        if info["taskfailure"]:
            return "failed"
        if rest == self._rest:
            return "same" if changed else "refused"
        return "moved" if room != self._room else _DID.get(self._taken[-1].split()[0], "changed")

    def _follow(self, action: str, moved: bool) -> None:
        """Keep the place on the gold path, and what brings an agent that left it back there."""
        if self._undo and action == self._undo[-1]:
            self._undo.pop()
        elif not self._undo and self._done < len(self._gold) and action == self._gold[self._done]:
            self._done += 1
        elif moved and (back := undo(action)):
            self._undo.append(back)

    def valid_actions(self) -> list[str]:
        """What changes something here."""
        return [a for a in super().valid_actions() if a.split()[0] not in LOOKS]

    def expert_action(self) -> str:
        """The next step of the gold path, or the way back to where it was left; empty where neither is possible."""
        possible = set(self._info["validActions"])
        if self._undo:
            return self._undo[-1] if self._undo[-1] in possible else ""
        while self._done < len(self._gold) and self._gold[self._done] not in possible:
            self._done += 1
        return self._gold[self._done] if self._done < len(self._gold) else ""

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: look up what the action names in the state before writing what follows."""
        return explain(task, history, transition)

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: what is still to be had, and what the state says of what the action names."""
        state = history[-1].next_state if history else task.first_state
        places = names(state)
        recipe = _RECIPE.match(task.instruction)
        wanted = recipe.group(1).split(", ") if recipe else ["coin"]
        left = [name for name in wanted if not _place(name, places).endswith("held")]
        needs = f"needs {', '.join(left)}" if left else "has all"
        return f"{needs} ; {about(task, history, state, action)}"


def bare(text: str) -> str:
    """A name without its article."""
    return _ARTICLE.sub("", _ARTICLE.sub("", text.strip()))


def read_look(look: str) -> tuple[str, list[str], list[str]]:
    """(room, things, exits) of the game's own description of a room."""
    room, sees, exits = "", [], []
    for sentence in re.split(r"\.\s+", " ".join(look.split()) + " "):
        sentence = sentence.strip().removesuffix(".")
        if found := _ROOM.match(sentence):
            room = found.group(1)
        elif found := _EXIT.search(sentence):
            exits.append(f"{found.group(1).lower()} {bare(found.group(2)).replace(' that is closed', '')}")
        elif sentence:
            sees.append(_thing(_FILLER.sub("", sentence)))
    return room, sees, sorted(exits, key=lambda e: DIRECTIONS.index(e.split()[0]))


def _thing(text: str) -> str:
    """`closed fridge`, `open fridge (milk)`, `counter (knife, carrot)`, `stove`."""
    name, _, has = text.partition(" that ")
    name = bare(name.removesuffix(","))
    if has == "is closed":
        return f"closed {name}"
    has = re.sub(r"^(?:has|contains) | on it$", "", has)
    if has in ("", "nothing", "is empty"):
        return name
    return f"{name} ({', '.join(bare(item) for item in re.split(r', and |, | and ', has))})"


def undo(action: str) -> str:
    """What takes an action back, where it stands in the way of the gold path; empty where it does not."""
    verb, _, rest = action.partition(" ")
    if verb == "move" and rest in DIRECTIONS:
        return f"move {opposite(rest)}"
    if verb == "close":
        return f"open {rest}"
    return f"take {rest.partition(' in ')[0]}" if verb == "put" else ""


def parse_state(state: str) -> dict[str, str]:
    """The fields of a state's line: room, sees, exits, holds."""
    found = _STATE.match(state)
    if found is None:
        raise ValueError(f"'{state}' is no state of this game")
    return found.groupdict()


def plain(name: str) -> str:
    """A name as commands have it: a `roasted sliced carrot` is a `carrot`."""
    return _TREATED.sub("", name)


def names(state: str) -> dict[str, str]:
    """Each name in a state -> where it is: `held`, `here` or `in THING`; `closed` where it is closed itself."""
    here = parse_state(state)
    found: dict[str, str] = {}
    for part in here["sees"].split("; "):
        thing, _, inside = part.removesuffix(")").partition(" (")
        name = thing.removeprefix("closed ").removeprefix("open ")
        found[name] = "closed" if thing.startswith("closed ") else "here"
        found |= dict.fromkeys(filter(None, inside.split(", ")), f"in {name}")
    found.pop("nothing", None)
    return found | {name: "held" for name in here["holds"].split(", ") if name != "nothing"}


def explain(task: Task, history: Sequence[Transition], transition: Transition) -> str:
    """What the state says of the things the action names, and the word that follows from it."""
    verdict = transition.next_state.split(" ", 1)[0]
    return f"{about(task, history, transition.state, transition.action)}: {verdict}"


def about(task: Task, history: Sequence[Transition], state: str, action: str) -> str:
    """What the state says of the things the action names."""
    places = names(state)
    if found := re.fullmatch(r"move (\w+)|(?:open|close) door to (\w+)", action):
        direction = found.group(1) or found.group(2)
        exits = dict(e.partition(" ")[::2] for e in parse_state(state)["exits"].split(", "))
        room = exits.get(direction, "no exit")
        seen = any(parse_state(t.state)["room"] == room for t in history)
        return f"{direction} {room}{' seen' if seen else ''}"
    if action == "prepare meal" and (recipe := _RECIPE.match(task.instruction)):
        told = [f"{name} {_place(name, places)}" for name in recipe.group(1).split(", ")]
    else:
        rest = action.partition(" ")[2]
        told = [f"{name} {_place(name, places)}" for name in rest.split(" in ") if name]
    return ", ".join(told) or action


def _place(wanted: str, places: dict[str, str]) -> str:
    """Where a thing is, as it looks by now: `roasted carrot held`, `in fridge`, `nowhere`."""
    for name, where in places.items():
        if plain(name) == wanted:
            return where if name == wanted else f"{name.removesuffix(wanted).strip()} {where}"
    return "nowhere"
