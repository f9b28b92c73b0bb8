"""Plays the keyhouse and writes its trajectories as JSON Lines: a stand-in for the logs you already have."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from keyhouse import KeyHouse

from dreamgym.types import Task


def play(env: KeyHouse, task: Task, slips: float, rng: random.Random, max_steps: int = 12) -> dict[str, Any]:
    """One episode of a player that types a random command with chance `slips`."""
    state, _ = env.reset(task)
    steps: list[dict[str, Any]] = []
    success = False
    while not success and len(steps) < max_steps:
        expert = env.expert_action()
        action = rng.choice(env.commands()) if rng.random() < slips else expert
        next_state, _, success, _, _ = env.step(action)
        steps.append({"state": state, "action": action, "next_state": next_state, "expert_action": expert})
        state = next_state
    source = {0.0: "expert", 1.0: "random"}.get(slips, "noisy")
    about = {"id": task.id, "instruction": task.instruction, "payload": task.payload}
    return {"task": about, "steps": steps, "source": source, "success": success}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the .jsonl file to write")
    parser.add_argument("--tasks", type=int, default=400, help="tasks of the train fold")
    options = parser.parse_args()
    env, rng = KeyHouse(), random.Random(0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8") as file:
        for task in env.tasks("train", options.tasks, seed=0):
            for slips in (0.0, 0.5, 0.5, 1.0):
                file.write(json.dumps(play(env, task, slips, rng)) + "\n")
    print(f"{options.out}: {4 * options.tasks} trajectories of {options.tasks} tasks")


if __name__ == "__main__":
    main()
