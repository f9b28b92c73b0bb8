"""A run folder of any size, made from a seed: a small world walked for real and in a dream that errs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamgym.config.loading import load_config
from dreamgym.replay import store
from dreamgym.replay.embed import HashingEmbedder, query_text
from dreamgym.replay.records import from_trajectory
from dreamgym.runs.folder import run_folder, write_json
from dreamgym.runs.ledger import Ledger
from dreamgym.runs.log import RunLog
from dreamgym.schema import TRAJECTORY_SCHEMA, read_parquet, to_batch, write_parquet
from dreamgym.telemetry.stats import wilson
from dreamgym.types import Task, TokenSample, Trajectory, Transition

ROOMS = ["hall", "kitchen", "cellar", "garden", "attic", "study", "pantry", "porch", "library", "workshop"]
ACTIONS = ["go on", "go back", "take coin", "look"]
MAX_STEPS = 12
TEMPLATES = 8
"""Different iterations; in a larger run they come again under other ids."""


def state(place: int, held: bool, goal: int) -> str:
    coin = "you hold the coin" if held else "a coin lies here" if place == goal else "nothing lies here"
    exits = [ROOMS[i] for i in (place - 1, place + 1) if 0 <= i < len(ROOMS)]
    return f"you are in the {ROOMS[place]}; exits lead to the {' and the '.join(exits)}; {coin}"


def episode(rng: random.Random, name: str, task: Task, who: str, dreamed: bool, skill: float) -> Trajectory:
    """Walk to the room with the coin and take it; a dream sometimes puts the agent elsewhere."""
    goal = ROOMS.index(task.instruction.rpartition(" ")[2])
    place, held, steps = 0, False, []
    while len(steps) < MAX_STEPS and not held:
        best = "take coin" if place == goal else "go on"
        action = best if rng.random() < skill else rng.choice(ACTIONS)
        before = state(place, held, goal)
        place = min(max(place + {"go on": 1, "go back": -1}.get(action, 0), 0), len(ROOMS) - 1)
        if dreamed and rng.random() < 0.08:
            place = rng.randrange(len(ROOMS))
        held = action == "take coin" and place == goal
        after = state(place, held, goal)
        thought = f"the coin should be in the {ROOMS[goal]}, so I {action}" if who == "policy" else ""
        reasoning = f"{action} from here leads to the {ROOMS[place]}" if dreamed else ""
        steps.append(
            Transition(before, action, after, float(held), held, reasoning, "" if dreamed else best, thought=thought)
        )
    world = "dream" if dreamed else "real"
    found = Trajectory(name, task, who, world, steps, success=held, truncated=not held, group=task.id)  # type: ignore[arg-type]
    found.samples = [_tokens(rng, len(steps))] if who == "policy" else []
    found.info = {"attempts": 1.0, "late": 0.0} if who == "policy" else {}
    return found


def _tokens(rng: random.Random, steps: int) -> TokenSample:
    sample = TokenSample()
    for _ in range(steps):
        sample.add_context([rng.randrange(500) for _ in range(40)])
        sample.add_sampled([rng.randrange(500) for _ in range(12)], [-rng.expovariate(2) for _ in range(12)], [3] * 12)
    return sample


def write_run(
    out: Path, name: str, iterations: int, episodes: int, tasks: int = 40, seed: int = 0, lr: str = ""
) -> Path:
    """A finished run with so many dreamed `episodes` in each of its `iterations`; returns its folder."""
    rng = random.Random(seed)
    settings = [f"out={out}", f"name={name}", f"seed={seed}", f"train.iterations={iterations}"]
    config = load_config(None, settings + ([f"learner.lr={lr}"] if lr else []))
    known = [
        Task(
            f"task{i:04d}", "rooms", f"fetch the coin from the {rng.choice(ROOMS[2:])}", first_state=state(0, False, -1)
        )
        for i in range(tasks)
    ]
    with run_folder(config) as folder:
        _collected(folder, rng, known)
        _dreamed(folder, rng, known, iterations, episodes)
        _buffered(folder, iterations)
        _metrics(folder, rng, iterations, episodes)
        _evaluations(folder, rng)
        _stages(folder)
        write_json(folder / "train" / "tasks.json", _inventions(rng, known))
    return folder


def _name(rng: random.Random) -> str:
    return f"{rng.getrandbits(64):016x}"


def _collected(folder: Path, rng: random.Random, known: Sequence[Task]) -> None:
    players = (("expert", 1.0), ("noisy", 0.6), ("random", 0.0))
    found = [episode(rng, _name(rng), task, who, False, skill) for task in known for who, skill in players]
    write_parquet(folder / "data" / "train.parquet", found)


def _dreamed(folder: Path, rng: random.Random, known: Sequence[Task], iterations: int, episodes: int) -> None:
    made: list[pa.Table] = []
    ledger = Ledger(folder / "train")
    for iteration in range(iterations):
        if len(made) < TEMPLATES:
            skill = 0.4 + 0.5 * iteration / TEMPLATES
            played = [episode(rng, "", known[i // 8 % len(known)], "policy", True, skill) for i in range(episodes)]
            made.append(pa.Table.from_batches([to_batch(played)]))
        ids = [_name(rng) for _ in range(episodes)]
        table = _with(made[iteration % len(made)], "trajectory_id", ids)
        table = _with(table, "iteration", [iteration] * episodes)
        path = folder / "train" / "trajectories" / f"iteration-{iteration:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")
        ledger.write("started", iteration, ids)
        ledger.write("finished", iteration, ids)
        ledger.write("trained", iteration, ids)
    ledger.close()


def _buffered(folder: Path, iterations: int) -> None:
    """The replay buffer of the last iteration: all seed data, and some dreams."""
    dreams = read_parquet(folder / "train" / "trajectories" / "iteration-00000.parquet")[:32]
    items = [item for t in read_parquet(folder / "data" / "train.parquet") for item in from_trajectory(t)]
    items += [item for t in dreams for item in from_trajectory(t, "world")]
    embedder = HashingEmbedder(64)
    vectors = embedder.embed([query_text(item.state, item.action) for item in items])
    counters = {"watermark": len(items) + 3, "pruned": 3, "refused": {"duplicate": 5}, "embedder": ["hashing", 64]}
    path = folder / "train" / "checkpoints" / f"iteration-{iterations:05d}" / store.FILE
    store.write(path, items, vectors, [number % 3 for number in range(len(items))], counters)


def _with(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, TRAJECTORY_SCHEMA.field(name), pa.array(values, TRAJECTORY_SCHEMA.field(name).type))


def _metrics(folder: Path, rng: random.Random, iterations: int, episodes: int) -> None:
    clock = 0.0
    with RunLog(folder / "train" / "metrics.jsonl") as log:
        for i in range(1, iterations + 1):
            rise = 1 - math.exp(-i / 12)
            clock += 20 + rng.random()
            log.write("iteration", i, _iteration(rng, i, rise, clock, episodes))
            if i % 5 == 0:
                log.write("eval", i, _evaluation(rng, rise))


def _iteration(rng: random.Random, i: int, rise: float, clock: float, episodes: int) -> dict[str, float]:
    return {
        "dream/success": 0.35 + 0.45 * rise + rng.gauss(0, 0.02),
        "dream/env_failed": rng.randrange(3),
        "rollout/episodes": episodes,
        "rollout/entropy": 0.4 * (1 - rise) + 0.05,
        "learner/entropy": 0.4 * (1 - rise) + 0.052,
        "learner/loss": rng.gauss(0, 0.02),
        "learner/grad_norm": 0.4 + 0.2 * rng.random(),
        "learner/gap_mean": 0.002 + 0.001 * rng.random(),
        "learner/gap_p999": 0.02 + 0.01 * rng.random(),
        "learner/gap_max": 0.06 + 0.04 * rng.random(),
        "curriculum/value_mean": 0.2 * (1 - rise) + 0.02,
        "curriculum/generated_share": min(0.25, 0.02 * i),
        "curriculum/admitted": rng.randrange(4),
        "curriculum/rejected_duplicate": rng.randrange(2),
        "replay/real": 4000,
        "replay/dream": 60 * i,
        "fleet/retried": i // 6,
        "time/rollout": 0.7 * clock,
        "time/learner": 0.2 * clock,
        "time/other": 0.1 * clock,
    }


def _evaluation(rng: random.Random, rise: float) -> dict[str, float]:
    won = min(64, max(0, round(64 * (0.3 + 0.4 * rise) + rng.gauss(0, 2))))
    low, high = wilson(won, 64)
    fidelity = {
        f"fidelity/{name}/{metric}": min(1.0, level + 0.02 * rng.random())
        for name, level in (("policy", 0.82), ("heldout", 0.95))
        for metric in ("state_exact", "state_f1", "outcome_accuracy")
    }
    real = {"real/success": won / 64, "real/low": low, "real/high": high, "real/games": 64, "real/env_failed": 0}
    again = {"again/wins": 40.0, "again/kept": 0.7 + 0.2 * rise, "again/obeyed": 0.1}
    return real | again | fidelity | {"dream/dev_success": min(1.0, won / 64 + 0.08), "fidelity/policy/n": 640.0}


def _evaluations(folder: Path, rng: random.Random) -> None:
    for who, share in (("warm_start", 0.35), ("policy", 0.68)):
        results = [int(rng.random() < share) for _ in range(100)]
        record = {"who": who, "fold": "test", "games": 100, "successes": sum(results), "env_failed": 0, "seconds": 9.0,
                  "results": results, "game_ids": [f"game{i}" for i in range(100)]}  # fmt: skip
        write_json(folder / "eval" / f"{who}-test.json", record)


def _stages(folder: Path) -> None:
    parts: dict[str, float] = {"rollout": 560.0, "learner": 160.0, "other": 80.0}
    for hour, (name, seconds, of) in enumerate(
        (("collect", 40.0, {}), ("sft-world", 300.0, {}), ("train", 800.0, parts))
    ):
        record = {"stage": name, "fingerprint": "0" * 16, "settings": {}, "upstream": [], "files": [], "parts": of,
                  "started": f"2026-03-01T0{hour}:00:00.000+00:00", "ended": f"2026-03-01T0{hour}:30:00.000+00:00",
                  "seconds": seconds, "tokens": 10_000, "peak_gib": 2.0, "summary": {"episodes": 120}}  # fmt: skip
        write_json(folder / "stages" / f"{name}.json", record)


def _inventions(rng: random.Random, known: Sequence[Task]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(24):
        fate = rng.choice(["active", "active", "retired", "duplicate", "infeasible"])
        active = [task["id"] for task in found if task["fate"] == "active"]
        parent = rng.choice(active) if active and number % 3 == 0 else rng.choice(known[:6]).id
        found.append(
            {
                "id": f"made{number:02d}",
                "instruction": f"fetch the coin from the {rng.choice(ROOMS)}, in the dark",
                "first_state": state(rng.randrange(5), False, -1),
                "parents": [parent],
                "fate": fate,
                "detail": {"retired": "3 groups in a row without variance", "duplicate": "cosine 0.9991"}.get(fate, ""),
                "value": round(rng.random() / 4, 4) if fate in ("active", "retired") else None,
            }
        )
    return found
