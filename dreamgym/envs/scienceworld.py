"""ScienceWorld: elementary-school science tasks in a text simulation (arXiv 2203.07540)."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from dreamgym.envs.base import next_on_path, payload_fields
from dreamgym.envs.java import collect_aside, find_java
from dreamgym.envs.textworld import room_line
from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task, Transition, stable_id

SHORT = (
    "find-animal",
    "find-living-thing",
    "find-non-living-thing",
    "find-plant",
    "lifespan-longest-lived",
    "lifespan-longest-lived-then-shortest-lived",
    "lifespan-shortest-lived",
)
_REFUSALS = ("No known action matches", "Unknown action", "Ambiguous request")
_LOOKS = ("look", "inventory", "task")
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
        (r", which is (?:turned off|deactivated)", " off"),
        (r", which is (?:turned on|activated)", " on"),
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
        self._gold: list[str] = []
        self._taken: list[str] = []
        self._rest = self._room = ""

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
        told = str(server.step(action))
        score = float(server.getScore())
        self._taken.append(action)
        success, failed = score >= 1.0, score < 0.0
        done = success or failed or bool(server.getCompleted())
        valid = not told.startswith(_REFUSALS)
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

    def expert_action(self) -> str:
        """The next step of the simulator's gold path; empty once the agent has left it."""
        return next_on_path(self._gold, self._taken)

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: the door where the action goes through one, else what kind of thing happens."""
        verdict = transition.next_state.rsplit("\n", 1)[-1].split(" ", 1)[0]
        if transition.action.startswith("go to "):
            place = transition.action.removeprefix("go to ")
            exits = transition.state.rpartition(" exits ")[2].partition(" holds ")[0].split(", ")
            door = next((e for e in exits if e.rpartition(" ")[0] == place), f"{place} no door")
            return f"{door}: {verdict}"
        return f"{transition.action}: {verdict}"

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
        self._gold = [a for a in env.get_gold_action_sequence() if a != "look around"] if gold else []
        self._taken = []
        self._rest = self._room = ""
        goal = " ".join(env.taskdescription().split()).removeprefix("Task Description: Your task is to ")
        return self._describe("moved", "", "", True), {"instruction": goal, "success": False}

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
