"""ScienceWorld: elementary-school science tasks in a text simulation (arXiv 2203.07540)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from dreamgym.envs.base import payload_fields
from dreamgym.envs.java import collect_aside, find_java
from dreamgym.envs.rooms import parse_state
from dreamgym.envs.textworld import room_line
from dreamgym.errors import EnvError
from dreamgym.types import Edit, Fold, Task, Transition, stable_id

SHORT = (
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
)
KINDS = ("animal", "living thing", "non-living thing", "plant")
DOORS = {
    "hallway": ("art studio", "bedroom", "greenhouse", "kitchen", "living room", "workshop"),
    "kitchen": ("bathroom", "hallway", "outside"),
    "outside": ("foundry", "greenhouse", "kitchen"),
    "greenhouse": ("hallway", "outside"),
    "bathroom": ("kitchen",),
    "foundry": ("outside",),
    "art studio": ("hallway",),
    "bedroom": ("hallway",),
    "living room": ("hallway",),
    "workshop": ("hallway",),
}
"""The simulator's one house: the rooms, and those next to each."""
_REFUSALS = ("No known action", "Unknown action", "Ambiguous request", "It's not clear how", "That can't be")
_LOOKS = ("look", "inventory", "task")
_STAGES = {"egg", "baby", "juvenile", "adult", "reproducing", "dead", "in", "inventory"}
"""Words of a referent that say when or where a thing is, not what it is."""
_HOW = re.compile(r"(,? (on|off|open|closed|-?\d+C))+$")
_DEED = re.compile(r"(focus on|pick up|move) (.+?)( to .+)?$")
_WANTED = re.compile(r"\bfind (?:an?|the|a\(n\)) (.+?)[.,]")
_HOME = re.compile(r"\b(\w+ box) in the ([\w ]+)")
_ROOM = re.compile(r"is called the (.+?)\.")
_DOOR = re.compile(r"A door to the (.+?) \(that is (open|closed)\)")
_SHORTER = [
    (re.compile(pattern, re.I), by)
    for pattern, by in (
        (r"\ba substance called ", ""),
        (r"\b(?:an?|the) (?=\w)", ""),
        (r" \(containing nothing\)", ""),
        (r"\((?:containing|that contains) ", "("),
        (r"\. (?:On|In) [^.]+? is: nothing\.", ""),
        (r"\. (?:On|In) [^.]+? is: ([^.]+)\.", r" (\1)"),
        (r"\. [^.]+? door is (open|closed)\.", r" \1"),
        (r"(?<=is:) (?:an?|the) ", " "),
        (r"\bbook \(.+?\) titled (.+?) by [^,.)]+", r"book \1"),
        (r" On [^.(]+? is: ([^.]+)", r" (\1)"),
        (r", which is (?:turned off|deactivated|off)\b", " off"),
        (r", which is (?:turned on|activated|on)\b", " on"),
        (r", which is (open|closed)\b", r" \1"),
        (r", currently reading temperature of (-?\d+) degrees celsius", r" \1C"),
    )
]


class ScienceWorld:
    """ScienceWorld as a `TextEnv`: a task's variations are tasks, the reward is a full score at the last step.

    The abstract state is a line `moved at kitchen sees stove off; fridge closed; … exits hallway open holds orange`,
    first what the last action did (moved, changed, focused; same, refused; solved, failed). What an action only tells
    comes in a line before it: `told thermometer measures 10 degrees`. Folds are the simulator's own.

    Args:
        tasks: names of tasks; the default are those with short gold paths.
        simplification: the simulator's own, such as `easy`, `openDoors,teleportAction`, or nothing.

    Raises:
        EnvError: the package is missing, or a name is unknown.
    """

    def __init__(self, tasks: Sequence[str] = SHORT, simplification: str = "easy") -> None:
        try:
            from scienceworld import ScienceWorldEnv
            from scienceworld.constants import ID2TASK
        except ImportError as error:
            raise EnvError(
                "env.name: 'scienceworld' needs its package; pip install 'dreamgym[scienceworld]'."
            ) from error
        known = sorted(ID2TASK.values())
        unknown = sorted(set(tasks) - set(known))
        if unknown:
            raise EnvError(f"env.options.tasks: '{unknown[0]}' is no task of ScienceWorld; known: {', '.join(known)}.")
        self._names, self._simplification = list(tasks), simplification
        self._make = ScienceWorldEnv
        self._env: Any = None
        self._deeds: list[tuple[str, str]] = []
        self._boxes: list[str] = []
        self._rest = self._room = self._focus = ""

    # TextEnv ------------------------------------------------------------------------------------

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        env = self._running()
        pairs = []
        for name in self._names:
            env.load(name, 0, self._simplification)
            variations = {
                "train": env.get_variations_train,
                "dev": env.get_variations_dev,
                "test": env.get_variations_test,
            }[fold]()
            pairs += [(name, int(variation)) for variation in variations]
        random.Random(stable_id(seed, fold)).shuffle(pairs)
        found = []
        for name, variation in pairs[:count]:
            payload = json.dumps({"fold": fold, "task": name, "variation": variation})
            state, info = self._load(payload, gold=False)
            task_id = stable_id("scienceworld", self._simplification, payload)
            found.append(Task(task_id, "scienceworld", info["instruction"], payload, state))
        return found

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        return self._load(task.payload, gold=True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        server = self._running().server
        due = bool(self._deeds) and self._room == self._deeds[0][0] and action == self.expert_action()
        told = str(server.step(action))
        score = float(server.getScore())
        success, failed = score >= 1.0, score < 0.0
        done = success or failed or bool(server.getCompleted())
        valid = not told.startswith(_REFUSALS)
        if told.startswith("You focus"):
            self._focus = action.removeprefix("focus on ")
        if due:
            self._deeds = self._deeds[1:] if valid else []
        state = self._describe("solved" if success else "failed" if done else "", told, action, valid)
        return state, float(success), done, False, {"success": success, "valid": valid, "score": score}

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    # Seed data ----------------------------------------------------------------------------------

    def valid_actions(self) -> list[str]:
        """Some hundreds; listing them takes the simulator longer than a step does."""
        found = self._running().get_valid_action_object_combinations()
        return sorted(a for a in found if not a.startswith(_LOOKS))

    def commands(self) -> list[str]:
        """Ways through doors most often, and deeds with what is in sight or held; most of the rest is refused.

        What is held is also put into the goal's box where there is none: a dream must not let that pass. With what is
        in focus that is half of all, since it wins the game elsewhere.
        """
        seen, held = _seen(self._line), _held(self._line)
        boxes = sorted({*(thing for thing in seen if thing.endswith(" box")), *self._boxes})
        ways = [f"go to {place}" for place in [*DOORS, *(3 * DOORS.get(self._room, ()))]]
        deeds = [f"{verb} {thing}" for thing in (*seen, *held) for verb in ("focus on", "pick up")]
        puts = [f"move {thing} to {box}" for thing in (*seen, *(3 * held)) for box in boxes if thing != box]
        others = [*ways, *deeds, *puts]
        kind = _kind(self._focus)
        there = kind and kind <= set(re.findall(r"\w+", self._line))
        wins = [self._named(f"move {self._focus} to {box}") for box in self._boxes if there]
        return [*others, *(len(others) // len(wins) * wins if wins else ())]

    def expert_action(self) -> str:
        """The next deed of the simulator's gold path, or the way back to its room; empty once a deed was refused."""
        if not self._deeds:
            return ""
        room, deed = self._deeds[0]
        if self._room == room:
            return self._named(deed)
        place = _next_room(self._room, room)
        return f"{'open door' if _exits(self._line).get(place) == 'closed' else 'go'} to {place}" if place else ""

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: the door where the action goes through one, else what it names, the focus and the goal.

        Both say whether the goal's box is there, room beside room, so that a small model learns to compare them.
        """
        verdict = transition.next_state.rsplit("\n", 1)[-1].split(" ", 1)[0]
        return f"{_about(task, history, transition.state, transition.action)}: {verdict}"

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: as for R*, without what follows."""
        return _about(task, history, history[-1].next_state if history else task.first_state, action)

    @staticmethod
    def vary(task: Task, rng: random.Random) -> list[Edit]:
        """The rule for variations: another kind of thing is to be found."""
        found = _WANTED.search(task.instruction)
        if found is None or found.group(1) not in KINDS:
            return []
        kind = rng.choice([kind for kind in KINDS if kind != found.group(1)])
        return [(found.group(), found.group().replace(found.group(1), kind))]

    # Inside -------------------------------------------------------------------------------------

    def _running(self) -> Any:
        if self._env is None:
            find_java()
            self._env = self._make("", envStepLimit=1_000_000)
            collect_aside(self._env._gateway)
        return self._env

    def _load(self, payload: str, *, gold: bool) -> tuple[str, dict[str, Any]]:
        name, variation = payload_fields(payload, "task", "variation")
        env = self._running()
        env.load(name, variation, self._simplification, generateGoldPath=gold)
        env.server.reset()
        env.server.step("look around")
        self._rest = self._room = self._focus = ""
        state = self._describe("moved", "", "", True)
        self._deeds = _deeds(env.get_gold_action_sequence(), self._room) if gold else []
        goal = " ".join(env.taskdescription().split()).removeprefix("Task Description: Your task is to ")
        self._boxes = [box for box, _ in _HOME.findall(goal)]
        return state, {"instruction": goal, "success": False}

    def _named(self, deed: str) -> str:
        """A deed with its thing called as the state calls it: `focus on egg parrot` -> `focus on parrot egg`."""
        found = _DEED.match(deed)
        if found is None:
            return deed
        verb, thing, where = found.groups(default="")
        kind = _kind(thing)
        names = [name for name in (*_held(self._line), *_seen(self._line)) if kind and kind <= set(name.split())]
        return f"{verb} {names[0]}{where}" if names else deed

    @property
    def _line(self) -> str:
        """The state as it is, whatever led to it."""
        return f"now {self._rest}"

    def _describe(self, what: str, told: str, action: str, valid: bool) -> str:
        env = self._running()
        room, rest = read_room(env.look(), env.inventory())
        same, moved = rest == self._rest, room != self._room
        self._rest, self._room = rest, room
        if not what and told.startswith("You focus"):
            what = "focused"
        what = what or ("refused" if not valid else "moved" if moved else "same" if same else "changed")
        line = f"{what} {rest}"
        news = told and same and valid and not action.startswith(_LOOKS) and not told.startswith("You focus")
        return f"told {shorter(told)}\n{line}" if news or told.startswith("Ambiguous") else line


def _about(task: Task, history: Sequence[Transition], state: str, action: str) -> str:
    """What the state says of what the action names, and of the goal."""
    line = state.rsplit("\n", 1)[-1]
    wanted = _WANTED.search(task.instruction)
    if action.startswith("go to "):
        place = action.removeprefix("go to ")
        return f"{place} {_exits(line).get(place, 'no door')}{_box(task, place)}"
    here = [thing for thing in (*_seen(line), *_held(line)) if thing in action]
    focus = [t.action.removeprefix("focus on ") for t in history if t.next_state.startswith("focused")]
    goal = f", find {wanted.group(1)}" if wanted else ""
    room = parse_state(line)["room"]
    told = f"at {room}{_box(task, room)}, {', '.join(here) or 'nothing'}"
    return f"{told}, focus {focus[-1] if focus else 'nothing'}{goal}"


def shorter(text: str) -> str:
    """The simulator's words without fillers, on one line."""
    text = " ".join(text.split())
    for pattern, by in _SHORTER:
        text = pattern.sub(by, text)
    return text.strip(" .")


def read_room(look: str, inventory: str) -> tuple[str, str]:
    """(room, line) from the simulator's views of the room and of what is held."""
    found = _ROOM.search(look)
    room = found.group(1) if found else "nowhere"
    things = [shorter(line) for line in look.partition("You also see:")[0].splitlines() if line.startswith("\t")]
    sees = sorted(_ordered(thing) for thing in things if thing not in ("agent", "air"))
    exits = [f"{place} {how}" for place, how in _DOOR.findall(look)]
    holds = sorted(_ordered(shorter(line)) for line in inventory.splitlines() if line.startswith("\t"))
    return room, room_line(room, sees, exits, holds)


def _ordered(thing: str) -> str:
    """A thing with its contents in order: the simulator lists them differently from one load to the next."""
    return re.sub(r"\(([^()]*)\)", lambda found: f"({', '.join(sorted(found.group(1).split(', ')))})", thing)


def _deeds(gold: Sequence[str], room: str) -> list[tuple[str, str]]:
    """(room, action) of all that a gold path does there besides going and looking."""
    found = []
    for action in gold:
        if action.startswith("go to "):
            room = action.removeprefix("go to ")
        elif action != "look around" and not action.startswith("open door"):
            found.append((room, action))
    return found


def _box(task: Task, room: str) -> str:
    """The goal's box, its room beside another, and whether that is the same: `, red box in hall kitchen away`."""
    found = _HOME.search(task.instruction)
    if found is None:
        return ""
    box, home = found.groups()
    return f", {box} in {home} {room} {'here' if room == home else 'away'}"


def _kind(thing: str) -> set[str]:
    """The words of a referent that say what it is."""
    return set(thing.partition(" containing ")[0].split()) - _STAGES


def _next_room(room: str, target: str) -> str:
    """The first room on a shortest way; empty where there is none."""
    first = {place: place for place in DOORS.get(room, ())}
    queue = list(first)
    for place in queue:
        for other in DOORS[place]:
            if other not in first and other != room:
                first[other] = first[place]
                queue.append(other)
    return first.get(target, "")


def _seen(line: str) -> list[str]:
    """Names of the things in sight, without what they hold and how they are."""
    things = (thing.partition(" (")[0] for thing in parse_state(line)["sees"].split("; "))
    return [_HOW.sub("", thing) for thing in things if thing != "nothing"]


def _held(line: str) -> list[str]:
    """Names of the things in hand, without what they hold."""
    things = re.sub(r" \(.*?\)+", "", parse_state(line)["holds"])
    return [thing for thing in things.split(", ") if thing != "nothing"]


def _exits(line: str) -> dict[str, str]:
    """`open` or `closed` by the room behind the door."""
    doors = parse_state(line)["exits"].split(", ")
    return {place: how for place, _, how in (door.rpartition(" ") for door in doors)}
