"""Small runs for the tests of the page: generated ones, and a world's text that looks like markup."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from dreamgym.schema import write_parquet
from dreamgym.types import Task, TokenSample, Trajectory, Transition

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks"))
generated: Any = importlib.import_module("generated_run")
accessibility: Any = importlib.import_module("accessibility")

NASTY = "<script>window.hit=1</script><img src=x onerror='window.hit=2'><b>bold</b>"
TASK = Task("nasty-task", "rooms", f"do {NASTY}", first_state="here")


def trajectory(name: str, world: str = "dream", **given: Any) -> Trajectory:
    """Two steps, the second of which says what looks like markup."""
    steps = given.pop("steps", None) or [
        Transition("here", "go", "there", 0.0, False, reasoning="a door", thought="I go"),
        Transition("there", "look", NASTY, 1.0, True, reasoning=NASTY, thought=NASTY),
    ]
    sample = TokenSample()
    sample.add_context([1, 2, 3])
    sample.add_sampled([4, 5], [-0.25, -3.0], [7, 7])
    given = {"iteration": 3, "success": True, "group": TASK.id, "samples": [sample]} | given
    return Trajectory(name, given.pop("task", TASK), "policy", world, steps, **given)  # type: ignore[arg-type]


def add(run_dir: Path, iteration: int, *trajectories: Trajectory) -> Path:
    """Write trajectories as an iteration of a run."""
    path = run_dir / "train" / "trajectories" / f"iteration-{iteration:05d}.parquet"
    write_parquet(path, trajectories)
    return path
