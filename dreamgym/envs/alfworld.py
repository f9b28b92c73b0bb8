"""ALFWorld: household tasks as text games (arXiv 2010.03768), from the official data."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task, Transition, stable_id

_GOAL = re.compile(r"Your task is to: (.+?)\.?\s*$")
_ROOM = re.compile(r"you see (.+?)\.", re.S)
_SEES = re.compile(r"(?:On|In) (?:the .+?|it), you see (.+?)\.")
_VERBS = {"take": "taken", "move": "put", "open": "opened", "close": "closed", "use": "used", "slice": "sliced"}
_HEATS = {"heat": "heated", "cool": "cooled", "clean": "cleaned"}
_LOOKS = ("look", "inventory", "examine", "help")


class AlfWorld:
    """ALFWorld as a `TextEnv`: a game is a task, the reward is 1 at the step that wins it.

    The first state lists the room's furniture; each state ends with a line `moved at desk 1 sees mug 2, pen 1 holds
    nothing`, first what the last action did (moved, taken, put, opened, …; same, refused, solved). The train split is
    train and dev (a tenth of its games), `split` is test.

    Args:
        data: the folder of the official download; by default the environment variable ALFWORLD_DATA.
        split: `valid_seen` or `valid_unseen`.

    Raises:
        EnvError: the package or the data is missing.
    """

    def __init__(self, data: str = "", split: str = "valid_seen") -> None:
        try:
            import alfworld.agents.environment.alfred_tw_env  # noqa: F401 - better to say now that it is missing
        except ImportError as error:
            raise EnvError("env.name: 'alfworld' needs its package; pip install 'dreamgym[alfworld]'.") from error
        folder = data or os.environ.get("ALFWORLD_DATA", "")
        if not folder or not Path(folder).is_dir():
            raise EnvError(
                "env.options.data: no ALFWorld data; run alfworld-download and set ALFWORLD_DATA to its folder."
            )
        self._folder, self._split = Path(folder), split
        self._scratch = tempfile.TemporaryDirectory(prefix="alfworld-")
        self._env: Any = None
        self._now: Any = None
        self._at = self._sees = self._holds = self._rest = ""

    # TextEnv ------------------------------------------------------------------------------------

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        games = list(_games(self._folder, self._split if fold == "test" else "train"))
        if fold != "test":
            games = [g for g in games if (int(stable_id("fold", g), 16) % 10 == 0) == (fold == "dev")]
        random.Random(stable_id(seed, fold)).shuffle(games)
        split = self._split if fold == "test" else "train"
        found: list[Task] = []
        for name in games:
            if len(found) == count:
                break
            row = _game(self._folder, split, name)
            if row.get("solvable", True):
                payload = json.dumps({"split": split, "game": name})
                found.append(Task(stable_id("alfworld", payload), "alfworld", _goal(row), payload))
        return found

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredExpert, AlfredInfos

        try:
            where = json.loads(task.payload)
            row = _game(self._folder, where["split"], where["game"])
        except (ValueError, TypeError, KeyError) as error:
            raise EnvError(
                f"task.payload: '{task.payload}' is no game of this data; only real tasks have one."
            ) from error
        self._leave()
        file = Path(self._scratch.name) / "game.tw-pddl"
        file.write_text(json.dumps(_playable(row)))
        (file.parent / "traj_data.json").write_text(json.dumps(row))
        asked = textworld.EnvInfos(won=True, admissible_commands=True, facts=True, extras=["gamefile"])
        wrappers = [AlfredDemangler(), AlfredInfos, AlfredExpert("handcoded")]
        self._env = textworld.start(str(file), asked, wrappers=wrappers)
        self._now = self._env.reset()
        room = _ROOM.search(self._now.feedback)
        self._at, self._sees, self._holds = "middle", "nothing", "nothing"
        self._rest = self._line()
        state = f"room has {_plain(room.group(1)) if room else 'nothing'}\nmoved {self._rest}"
        return state, {"instruction": _goal(row), "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        valid = action in self._now.admissible_commands
        self._now, _, _ = self._env.step(action)
        feedback = " ".join(self._now.feedback.split())
        valid = valid and not feedback.startswith("Nothing happens")
        success = bool(self._now.won)
        what = self._follow(action, feedback) if valid else "refused"
        line = self._line()
        if valid and line == self._rest and what == "moved":
            what = "same"
        self._rest = line
        told = f"told {feedback}\n" if what == "same" and action.startswith(("examine", "look")) else ""
        return (
            f"{told}{'solved' if success else what} {line}",
            float(success),
            success,
            False,
            {"success": success, "valid": valid},
        )

    def close(self) -> None:
        self._leave()
        self._scratch.cleanup()

    # Seed data ----------------------------------------------------------------------------------

    def valid_actions(self) -> list[str]:
        return sorted(a for a in self._now.admissible_commands if a.split()[0] not in _LOOKS)

    def commands(self) -> list[str]:
        """What is possible, and deeds with what is in sight or held, most of them not possible."""
        things = [t for t in (*self._sees.split(", "), self._holds) if t not in ("nothing", "closed")]
        tools = ("microwave 1", "fridge 1", "sinkbasin 1")
        deeds = [f"{verb} {t} with {tool}" for t in things for verb, tool in zip(_HEATS, tools, strict=True)]
        moves = [f"{verb} {t} {word} {self._at}" for t in things for verb, word in (("take", "from"), ("move", "to"))]
        return sorted({*self.valid_actions(), *deeds, *moves, f"open {self._at}", f"close {self._at}"})

    def expert_action(self) -> str:
        """The next action of ALFWorld's hand-coded expert."""
        plan = self._now["extra.expert_plan"]
        return str(plan[0]) if plan else ""

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: what the action names and the state has, before what follows."""
        verdict = transition.next_state.rsplit("\n", 1)[-1].split(" ", 1)[0]
        return f"{_about(transition.state, transition.action)}: {verdict}"

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: the goal, and whether what the action names is here."""
        state = history[-1].next_state if history else task.first_state
        return f"{task.instruction} ; {_about(state, action)}"

    # Inside -------------------------------------------------------------------------------------

    def _leave(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _line(self) -> str:
        return f"at {self._at} sees {self._sees} holds {self._holds}"

    def _follow(self, action: str, feedback: str) -> str:
        """Keep place, sight and hands by what the game answers; what the action did."""
        verb, _, rest = action.partition(" ")
        found = _SEES.search(feedback)
        seen = [t for t in self._sees.split(", ") if t not in ("nothing", "closed")]
        if verb == "go":
            self._at = rest.removeprefix("to ")
            self._sees = _plain(found.group(1)) if found else "closed" if "is closed" in feedback else "nothing"
        elif verb == "open":
            self._sees = _plain(found.group(1)) if found else "nothing"
        elif verb == "close":
            self._sees = "closed"
        elif verb == "take":
            self._holds = rest.partition(" from ")[0]
            self._sees = ", ".join(t for t in seen if t != self._holds) or "nothing"
        elif verb == "move":
            self._holds = "nothing"
            self._sees = ", ".join([*seen, rest.partition(" to ")[0]])
        return (_VERBS | _HEATS).get(verb, "same" if verb in _LOOKS else "moved")


def _plain(things: str) -> str:
    """`a mug 2, and a pen 1` -> `mug 2, pen 1`."""
    return ", ".join(re.sub(r"^(?:and )?(?:an? )?", "", t.strip()) for t in things.replace("\n", " ").split(","))


def _games(folder: Path, split: str) -> Sequence[str]:
    """The names of a split's games, sorted."""
    rows = _rows(folder, split)
    if rows:
        return sorted(rows)
    root = folder / "json_2.1.1" / split
    names = sorted(str(file.parent.relative_to(root)) for file in root.glob("*/*/game.tw-pddl"))
    names = [name for name in names if "movable" not in name and "Sliced" not in name]  # as upstream: not playable
    if not names:
        raise EnvError(f"env.options.data: '{folder}' has no game of the split {split}; run alfworld-download.")
    return names


@lru_cache(maxsize=4)
def _rows(folder: Path, split: str) -> dict[str, dict[str, Any]]:
    """The games of a split kept as one file of rows; none where the folder is the official download."""
    file = folder / f"alfworld_{split}.jsonl.xz"
    if not file.is_file():
        return {}
    with lzma.open(file, "rt") as lines:
        return {row["id"]: row for row in map(json.loads, lines)}


def _game(folder: Path, split: str, name: str) -> dict[str, Any]:
    rows = _rows(folder, split)
    if rows:
        return rows[name]
    place = folder / "json_2.1.1" / split / name
    game = json.loads((place / "game.tw-pddl").read_text())
    kept = {"pddl_problem": game["pddl_problem"], "solvable": game.get("solvable", False), "id": name}
    row: dict[str, Any] = json.loads((place / "traj_data.json").read_text())
    return row | kept


def _grammar(row: dict[str, Any]) -> str:
    """The game's grammar with the goal in words; upstream draws the wording, here the game's id decides it."""
    import alfworld
    from alfworld.agents.utils.misc import add_task_to_grammar

    text = (Path(alfworld.__file__).parent / "data" / "alfred.twl2").read_text()
    kept = random.getstate()
    random.seed(stable_id(row["id"]))
    try:
        return str(add_task_to_grammar(text, traj_data=row))
    finally:
        random.setstate(kept)


def _playable(row: dict[str, Any]) -> dict[str, Any]:
    import alfworld

    domain = (Path(alfworld.__file__).parent / "data" / "alfred.pddl").read_text()
    return {
        "pddl_domain": domain,
        "grammar": _grammar(row),
        "pddl_problem": row["pddl_problem"],
        "solvable": True,
        "walkthrough": [],
    }


def _about(state: str, action: str) -> str:
    """Whether the things that an action names are in the line of a state."""
    line = state.rsplit("\n", 1)[-1].replace(",", "")
    told = [f"{name} {'here' if f' {name}' in line else 'not here'}" for name in re.findall(r"\w+ \d+", action)]
    return ", ".join(told) or action


def _goal(row: dict[str, Any]) -> str:
    found = re.search(r"Your task is to: ([^\n;\"]+)", _grammar(row))
    if found is None:
        raise ValueError(f"no goal in the grammar of game {row['id']}")
    return found.group(1).strip(" .")
