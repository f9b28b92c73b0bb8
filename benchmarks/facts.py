"""What demonstrations know: of recorded steps, how many are shown one, of the same task, with the right next state.

    .venv/bin/dreamgym collect recipes/scienceworld.yaml [field=value …]
    .venv/bin/python benchmarks/facts.py recipes/scienceworld.yaml [another.yaml …] [field=value …]

No model and no engine. Steps of train episodes ask for demonstrations as the tuning does, without their own episode;
held-out steps ask a buffer of all train episodes. Both without `replay.by_task` (today), and with it at -1 and (near)
at 0.9. Where states tell rooms, steps that enter a room which their episode has not been in are counted apart: its
contents stand in no context.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from record import ROOT, record

from dreamgym.config.loading import load_config
from dreamgym.config.loop import ReplayConfig
from dreamgym.envs.rooms import parse_state
from dreamgym.models.prompts import last_line
from dreamgym.replay.buffer import ReplayBuffer
from dreamgym.replay.bulk import leave_one_out
from dreamgym.replay.embed import Embedder, make_embedder, query_text
from dreamgym.replay.facts import shown
from dreamgym.replay.gate import contradiction
from dreamgym.replay.records import Demo, StoredTransition, from_trajectory, lineage, seed_transitions
from dreamgym.schema import read_parquet
from dreamgym.types import Trajectory, Transition

FILES = ("train.parquet", "heldout.parquet")
ASKED = 400
"""Train episodes that ask, drawn by chance where there are more."""
Told = tuple[Trajectory, Transition, bool, list[Demo]]
"""An episode, a step of it, whether that enters a new room, and its demonstrations."""


def main() -> None:
    asked = [word for word in sys.argv[1:] if not word.startswith("out=")]
    recipes = [word for word in asked if word.endswith(".yaml")]
    metrics: dict[str, float | int] = {}
    for recipe in recipes:
        config = load_config(Path(recipe), [word for word in sys.argv[1:] if word not in recipes])
        data = config.run_dir / "data"
        train, heldout = (read_parquet(file) if (file := data / name).exists() else [] for name in FILES)
        found = measured(train, heldout, config.replay)
        metrics |= {f"{config.env.name}_{key}": value for key, value in found.items()}
    how = (
        "shown, known: of all steps of the kind; same_task, right (next state to the letter), outcome (reward and end) "
        "and contents (what the room holds): of those with a demonstration; known: with the right next state or, on "
        f"entering a new room, contents; train: the steps of at most {ASKED} episodes; truths_refused: of true "
        "transitions, those that the write gate would hold for contradictions, were their own episode not stored"
    )
    command = " ".join(["python benchmarks/facts.py", *asked])
    record(ROOT / "benchmarks" / "results" / "facts.json", command, metrics, how=how)


def measured(
    train: Sequence[Trajectory], heldout: Sequence[Trajectory], replay: ReplayConfig
) -> dict[str, float | int]:
    """All figures of one environment."""
    embedder = make_embedder(replay)
    metrics: dict[str, float | int] = {"episodes": len(train), "tasks": len({t.task.id for t in train})}
    for by_task, name in ((None, "today"), (-1.0, "by_task"), (0.9, "by_task_near")):
        steps = list(from_train(train, replay, embedder, by_task))
        metrics |= {f"{name}_train_{key}": value for key, value in shares(steps).items()}
        metrics |= {f"{name}_new_room_{key}": value for key, value in shares([s for s in steps if s[2]], True).items()}
        if heldout:
            steps = list(from_buffer(train, heldout, replay, by_task))
            metrics |= {f"{name}_dev_{key}": value for key, value in shares(steps).items()}
    return metrics | recorded_elsewhere(train) | refused_truths(train, replay, embedder)


def from_train(
    train: Sequence[Trajectory], replay: ReplayConfig, embedder: Embedder, by_task: float | None
) -> Iterator[Told]:
    """Steps of train episodes with demonstrations from the other ones."""
    drawn = set(random.Random(0).sample(range(len(train)), min(ASKED, len(train))))
    asking = [number in drawn for number in range(len(train))]
    found = leave_one_out(train, embedder, replay.top_k, asking, by_task)
    for t, demos, asks in zip(train, found, asking, strict=True):
        if asks:
            yield from along(t, demos, replay)


def from_buffer(
    train: Sequence[Trajectory], heldout: Sequence[Trajectory], replay: ReplayConfig, by_task: float | None
) -> Iterator[Told]:
    """Held-out steps with demonstrations from a buffer, as in a dream."""
    buffer = ReplayBuffer(replay.model_copy(update={"by_task": by_task}))
    buffer.add(seed_transitions(train))
    for t in heldout:
        tasks = [lineage(t.task)] * len(t.steps) if by_task is not None else None
        yield from along(t, buffer.search([(s.state, s.action) for s in t.steps], replay.top_k, None, tasks), replay)


def along(t: Trajectory, demos: Sequence[Sequence[Demo]], replay: ReplayConfig) -> Iterator[Told]:
    seen = {room(t.steps[0].state)[0]}
    for step, found in zip(t.steps, demos, strict=True):
        place, _ = room(step.next_state)
        yield t, step, place not in seen, shown(found, replay.top_k, replay.min_similarity)
        seen.add(place)


def room(state: str) -> tuple[str, str]:
    """(name, contents) of the room in a state; empty where it tells none in this way."""
    try:
        parts = parse_state(last_line(state))
    except ValueError:
        return "", ""
    return parts["room"], parts["sees"]


def shares(told: Sequence[Told], rooms: bool = False) -> dict[str, float]:
    """The best demonstration of each step, as shares.

    `shown` and `known` are of all steps. `same_task`, `right` (next state to the letter), `outcome` (reward and end)
    and `contents` (what the room holds) are of the steps with a demonstration. Known are the right ones, or contents.
    """
    if not told:
        return {}
    best = [(t, step, demos[0]) for t, step, _, demos in told if demos]
    count = Counter(shown=len(best))
    for t, step, demo in best:
        count["same_task"] += demo.task_id == t.task.id
        count["right"] += demo.next_state == step.next_state
        count["outcome"] += (demo.reward, demo.done) == (step.reward, step.done)
        count["contents"] += room(demo.next_state) == room(step.next_state)
    result: dict[str, float] = {"steps": len(told)}
    for key, of in (("shown", told), ("same_task", best), ("right", best), ("outcome", best), ("contents", best)):
        if of and (rooms or key != "contents"):
            result[key] = round(count[key] / len(of), 3)
    return result | {"known": round(count["contents" if rooms else "right"] / len(told), 3)}


def recorded_elsewhere(train: Sequence[Trajectory]) -> dict[str, float]:
    """Of the steps that enter a new room, those whose room another episode of the same task saw just so."""
    saw: dict[str, dict[str, set[tuple[str, str]]]] = {}
    for t in train:
        saw.setdefault(t.task.id, {})[t.id] = {room(state) for s in t.steps for state in (s.state, s.next_state)}
    new = known = 0
    for t in train:
        others = set().union(*(rooms for other, rooms in saw[t.task.id].items() if other != t.id))
        seen = {room(t.steps[0].state)[0]}
        for step in t.steps:
            place = room(step.next_state)
            new += place[0] not in seen
            known += place[0] not in seen and place in others
            seen.add(place[0])
    return {"new_room_recorded_in_another_episode": round(known / new, 3)} if new else {}


def refused_truths(train: Sequence[Trajectory], replay: ReplayConfig, embedder: Embedder) -> dict[str, float]:
    """How often the gate would hold a true transition for a contradiction, were its own episode not stored, by kind."""
    of_task: dict[str, list[StoredTransition]] = {}
    for item in (item for t in train for item in from_trajectory(t)):
        of_task.setdefault(item.task_id, []).append(item)
    kinds: Counter[str] = Counter()
    for items in of_task.values():
        vectors = embedder.embed([query_text(item.state, item.action) for item in items])
        for item, cosines in zip(items, np.asarray(vectors @ vectors.T).tolist(), strict=True):
            others = [(o, c) for o, c in zip(items, cosines, strict=True) if o.trajectory_id != item.trajectory_id]
            kinds[contradiction(item, [(o, c) for o, c in others if c >= replay.novelty])] += 1
    names = {kind: f"truths_refused_{kind.removeprefix('contradicts_')}" for kind in sorted(kinds) if kind}
    return {name: round(kinds[kind] / kinds.total(), 4) for kind, name in names.items()}


if __name__ == "__main__":
    main()
