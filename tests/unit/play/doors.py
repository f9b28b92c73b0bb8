"""A tiny real environment, and a dream of it that is scripted: what is tested is who plays them, and not they."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import EngineError
from dreamgym.play.player import Player
from dreamgym.play.tasks import tasks_of
from dreamgym.replay.records import Demo
from dreamgym.runs.folder import write_json, write_text
from dreamgym.schema import write_parquet
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.types import Fold, Task, Trajectory, Transition

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'>\x1b[31m"
NAME = "tests.unit.play.doors:Doors"
FIRST = "map: hall, attic\nin hall"
TASK = Task("t1", NAME, "find the attic", "{}", FIRST)


class Doors:
    """`go up` leads from the hall to the attic, which wins; a closed door leads nowhere."""

    resets = 0

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        return [TASK]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        Doors.resets += 1
        if not task.payload:
            raise ValueError("no payload")
        return task.first_state, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if action == "go up":
            return "in attic", 1.0, True, False, {}
        return f"nothing happens: {action}", 0.0, False, False, {"valid": False}

    def close(self) -> None:
        pass

    @staticmethod
    def reason(task: Task, history: list[Transition], transition: Transition) -> str:
        return f"after {len(history)} steps, {transition.action} leads to {transition.next_state}"


class DoorsWithTools(Doors):
    """The same, with a tool."""

    tools = (
        {"name": "go", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}},
    )


class Scripted:
    """Says what the environment would, but for: `push` (obeys), `mumble` (unreadable), `break` (the engine fails)."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def step(self, query: DreamQuery) -> DreamAnswer:
        self.asked[query.action] += 1
        demo = Demo("in hall", "go up", f"in attic {NASTY}", 1.0, True, "", 0.875, "e1", "real")
        if query.action == "break":
            raise EngineError("the engine is gone.")
        if query.action == "mumble":
            return DreamAnswer(error="the dream gave no readable step in 3 attempts: 'mm'", demos=[demo])
        if query.action == "go up":
            return DreamAnswer("the attic is above", "in attic", 1.0, True, demos=[demo])
        state = {"push": "the door opens", "nasty": NASTY}.get(query.action, f"nothing happens: {query.action}")
        return DreamAnswer(f"it is {query.action}", state, 0.0, False, demos=[demo])


def write_run(out: Path) -> RunConfig:
    """A run that has come as far as its annotated data, with an invented task."""
    steps = [Transition(FIRST, "go up", "in attic", 1.0, True, "up")]
    config = load_config(None, [f"out={out}", "name=doors", f"env.name={NAME}", "env.max_steps=4"])
    data = config.run_dir / "data"
    write_parquet(data / "annotated.parquet", [Trajectory("e1", TASK, "expert", "real", steps, success=True)])
    dev = Task("t2", NAME, f"find {NASTY}", "{}", "in hall")
    write_parquet(data / "heldout.parquet", [Trajectory("e2", dev, "expert", "real", steps, fold="dev")])
    invented = {"id": "g1", "instruction": "find the cellar", "first_state": "in cellar", "parents": ["t1"]}
    write_json(config.run_dir / "train" / "tasks.json", [{**invented, "fate": "active", "detail": "", "value": 0.2}])
    write_text(config.run_dir / "config.yaml", (config.model_dump_json()))
    return config


def player(config: RunConfig, world: Scripted | None = None) -> Player:
    return Player(config, world or Scripted(), "doors-seed0/world", tasks_of(config.run_dir, config.env.name))
