"""TextWorldExpress games: one real game server a process, without a system Java; each game adds its own file."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.base import next_on_path, payload_fields
from dreamgym.envs.java import collect_aside, find_java
from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task, stable_id

HOUSEKEEPING = ("look around", "inventory", "task")
DIRECTIONS = ("north", "east", "south", "west")

_STEP_LIMIT = 1_000_000
_machines = threading.Lock()
_machine: Any = None
_servers = 0


def opposite(direction: str) -> str:
    """The way back."""
    return DIRECTIONS[(DIRECTIONS.index(direction) + 2) % 4]


def room_line(room: str, sees: Sequence[str], exits: Sequence[str], holds: Sequence[str]) -> str:
    """A room, what is in it, its exits and what is held, as one line of always the same shape."""
    return (
        f"at {room} sees {'; '.join(sees) or 'nothing'} exits {', '.join(exits) or 'none'} "
        f"holds {', '.join(holds) or 'nothing'}"
    )


def _start_machine() -> Any:
    find_java()
    from textworld_express import TextWorldExpressEnv

    machine = TextWorldExpressEnv(envStepLimit=_STEP_LIMIT)
    collect_aside(machine._gateway)
    return machine


def _server() -> Any:
    """A game server of its own inside the process's one Java machine, which ends with its last server."""
    from textworld_express import TextWorldExpressEnv

    class Server(TextWorldExpressEnv):
        def __init__(self, machine: Any) -> None:
            self._gateway = machine._gateway
            self.server = machine._gateway.jvm.textworldexpress.runtime.PythonInterface()
            self.envStepLimit = _STEP_LIMIT
            self.lastStepScore = 0
            self.runHistory: list[Any] = []

        def close(self) -> None:
            global _machine, _servers
            with _machines:
                _servers -= 1
                if _servers == 0:
                    _machine.close()
                    _machine = None

        def __del__(self) -> None:
            """`close` is called by the one who holds the server."""

    global _machine, _servers
    with _machines:
        if _machine is None:
            _machine = _start_machine()
        _servers += 1
        return Server(_machine)


class TextWorldGame:
    """A TextWorldExpress game as a `TextEnv`: seeds are tasks, the reward is the game's success at the last step.

    A subclass names the game, abstracts its observations (`describe`) and words its goal (`instruct`).
    Options are the game's own parameters, such as `numLocations=4`.
    """

    game: ClassVar[str]
    defaults: ClassVar[dict[str, int]] = {}
    by_content: ClassVar[bool] = False
    """Games of different seeds begin alike: then the first state, and not the seed alone, says which fold one is in."""

    def __init__(self, **options: int) -> None:
        unknown = sorted(set(options) - set(self.defaults))
        if unknown:
            raise EnvError(
                f"env.options: '{unknown[0]}' is no parameter of {self.game}; known: {sorted(self.defaults)}."
            )
        self._params = ",".join(f"{k}={v}" for k, v in (self.defaults | options).items())
        self._server: Any = None
        self._gold: list[str] = []
        self._taken: list[str] = []
        self._info: dict[str, Any] = {}

    # What a game adds -------------------------------------------------------------------------

    def describe(self, info: dict[str, Any], *, changed: bool, first: bool) -> str:
        """The abstract state of the server's answer; `changed` is False where the last action was refused."""
        raise TypeError(f"{type(self).__name__} must say how its observations are abstracted")

    def instruct(self, info: dict[str, Any]) -> str:
        """The goal in words."""
        return str(info["taskDescription"]).strip()

    # TextEnv ------------------------------------------------------------------------------------

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        server = self._running()
        seeds = list(
            {
                "train": server.getValidSeedsTrain,
                "dev": server.getValidSeedsDev,
                "test": server.getValidSeedsTest,
            }[fold]()
        )
        random.Random(stable_id(seed, fold)).shuffle(seeds)
        found: list[Task] = []
        for game_seed in seeds:
            if len(found) == count:
                break
            payload = json.dumps({"fold": fold, "seed": game_seed})
            try:
                state, info = self._load(payload)
            except _BrokenSeed:
                continue
            if self.by_content and _fold_of(state) != fold:
                continue
            task_id = stable_id(self.game, self._params, payload)
            found.append(Task(task_id, self.game, info["instruction"], payload, state))
        return found

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        return self._load(task.payload)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        before = self._info
        _, _, _, info = self._running().step(action)
        changed = action in before["validActions"]
        self._info = info
        self._taken.append(action)
        success = bool(info["tasksuccess"])
        done = success or bool(info["taskfailure"])
        state = self.describe(info, changed=changed, first=False)
        return state, float(success), done, False, {"success": success, "valid": changed}

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # Seed data ----------------------------------------------------------------------------------

    def valid_actions(self) -> list[str]:
        return sorted(self._info["validActions"])

    def expert_action(self) -> str:
        """The next step of the game's gold path; empty once the agent has left it."""
        return next_on_path(self._gold, self._taken)

    # Inside ---------------------------------------------------------------------------------------

    def _running(self) -> Any:
        if self._server is None:
            self._server = _server()
            self._server.load(gameName=self.game, gameParams=self._params)
        return self._server

    def _load(self, payload: str) -> tuple[str, dict[str, Any]]:
        fold, game_seed = payload_fields(payload, "fold", "seed")
        from py4j.protocol import Py4JJavaError

        try:
            _, info = self._running().reset(seed=game_seed, gameFold=fold, generateGoldPath=True)
        except Py4JJavaError as error:
            raise _BrokenSeed(f"{self.game} cannot make seed {game_seed} of fold {fold}") from error
        gold = self._server.getGoldActionSequence()
        self._gold = [a for a in gold if a not in HOUSEKEEPING]
        self._taken = []
        self._info = info
        return self.describe(info, changed=True, first=True), {"instruction": self.instruct(info), "success": False}


def _fold_of(first_state: str) -> Fold:
    """Six tenths of all first states are the train fold's, one is the dev fold's, three are the test fold's."""
    tenth = int(stable_id("fold", first_state), 16) % 10
    return "train" if tenth < 6 else "dev" if tenth == 6 else "test"


class _BrokenSeed(RuntimeError):
    """The game's generator fails for this seed (some mapreader seeds do)."""
