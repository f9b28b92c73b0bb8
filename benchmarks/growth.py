"""How costs grow with rollout actors, with episodes in flight, and with the size of a group.

    .venv/bin/python benchmarks/growth.py actors [--anew]
    .venv/bin/python benchmarks/growth.py episodes [--anew]
    .venv/bin/python benchmarks/growth.py groups [--anew] [field=value …]

Every part is the real one. `actors` and `episodes` play `skewed.py` with the quick start's Llama, untrained; `groups`
dreams with models tuned for two minutes (made first, once, in `runs/`; overrides as for a run). Each point is kept as
soon as it is measured, and a curve goes on where it was left; --anew begins it again. Where the next point would need
more than `MOST_GIB` in all, the curve ends and says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray
from compare import SMALL, WORDS
from record import ROOT, write
from skewed import Skewed
from workload import episodes_of, tasks_of

from dreamgym.actors.episode import EpisodeSpec
from dreamgym.actors.fleet import RolloutFleet
from dreamgym.commands.annotate import annotate
from dreamgym.commands.collect import collect
from dreamgym.commands.sft import sft
from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.models.checkpoint import prepare_model
from dreamgym.runtime.processes import GIB, TREE, no_process_left
from dreamgym.schema import read_parquet
from dreamgym.training.rollout_metrics import rollout_metrics
from dreamgym.training.services import Services, start_services
from dreamgym.types import Task, Trajectory, stable_id

RESULT = ROOT / "benchmarks" / "results" / "growth.json"
ROUNDS, MOST_GIB = 3, 14.0
ACTORS, IN_FLIGHT, GROUP_SIZES = (1, 2, 4, 8, 16, 32, 64), tuple(2**k for k in range(10)), (4, 8, 16, 32)
EPISODES, FEWEST, DREAMED = 96, 24, 128
"""Episodes of a round: of `actors`; of `episodes`, at the least; of `groups`, whatever their size."""
GONE_S = 3.0
"""Until an actor that is killed has given its memory back."""
PARTS = {"actors": "ray::RolloutActor", "engine": "ray::PolicyEngine"}
DREAM = (
    "name=growth",
    "collect.tasks=300",
    "collect.heldout_tasks=2",
    "world.model.scratch.drill_tokens=200000",
    "world.sft.tokens=300000",
    "policy.sft.tokens=60000",
)
HOW = {
    "actors": f"{EPISODES} episodes of 1 to 12 turns, spread over so many rollout actors and one engine; cpu_ms_per_"
    "turn by part; memory is of all processes (PSS), started_s until all of the actors answer",
    "episodes": f"one rollout actor with so many environments, {FEWEST} episodes or as many as are in flight",
    "groups": f"{DREAMED} dreamed episodes in groups of such a size; shared: steps that the memo spared",
}
Point = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("curve", choices=list(HOW))
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    curve = Curve(options.curve, options.anew)
    with no_process_left():
        if options.curve == "groups":
            groups(curve, options.overrides)
        else:
            {"actors": actors, "episodes": episodes}[options.curve](curve)
    print(json.dumps(curve.points(), indent=2))


class Curve:
    """One curve in the file of results, which is written after every point."""

    def __init__(self, name: str, anew: bool) -> None:
        self._name = name
        self._curves: dict[str, Any] = json.loads(RESULT.read_text())["curves"] if RESULT.exists() else {}
        if anew or name not in self._curves:
            self._curves[name] = {"how": HOW[name], "points": {}}

    def points(self) -> dict[str, Point]:
        """What is measured so far, by size."""
        points: dict[str, Point] = self._curves[self._name]["points"]
        return points

    def missing(self, sizes: Sequence[int]) -> list[int]:
        return [size for size in sizes if str(size) not in self.points()]

    def keep(self, size: int, point: Point) -> None:
        print(self._name, size, point, flush=True)
        self.points()[str(size)] = point
        self._curves[self._name].pop("ended", None)
        self._write()

    def end(self, why: str) -> None:
        """The curve ends sooner."""
        print(why, flush=True)
        self._curves[self._name]["ended"] = why
        self._write()

    def _write(self) -> None:
        how = (
            f"each point: medians of {ROUNDS} rounds after one that is not kept; cores_used_by_others: not by this run"
        )
        write(RESULT, "python benchmarks/growth.py CURVE", how=how, curves=self._curves)


def actors(curve: Curve) -> None:
    """1 to 64 rollout actors on one engine."""
    with played() as (config, model, services):
        with fleet_of(config, model, services, 1) as fleet:  # an engine takes more memory once it has worked
            play(fleet, EPISODES, 0)
        time.sleep(GONE_S)
        alone = TREE.memory()
        for count in curve.missing(ACTORS):
            known = curve.points()
            each = known[max(known, key=int)]["mib_per_actor"] * 2**20 if known else 0.0
            if (needed := (alone + count * each) / GIB) > MOST_GIB:
                curve.end(f"{count} actors would need {needed:.1f} GiB, more than {MOST_GIB:g}")
                return
            began = time.perf_counter()
            with fleet_of(config, model, services, count) as fleet:
                started = time.perf_counter() - began
                point = rounds(partial(play, fleet, EPISODES))
                memory = TREE.memory()
            told = {"started_s": started, "memory_gib": memory / GIB, "mib_per_actor": (memory - alone) / count / 2**20}
            curve.keep(count, point | {name: round(value, 2) for name, value in told.items()})


def episodes(curve: Curve) -> None:
    """1 to 512 episodes in flight on one rollout actor."""
    with played() as (config, model, services):
        for count in curve.missing(IN_FLIGHT):
            own = config.model_copy(update={"env": config.env.model_copy(update={"workers": count})})
            with fleet_of(own, model, services, 1) as fleet:
                total = max(count, FEWEST)
                point = rounds(partial(play, fleet, total))
                curve.keep(count, point | {"episodes": total})


def groups(curve: Curve, overrides: Sequence[str]) -> None:
    """Groups of 4 to 32 in the dream, as many episodes in all."""
    config = load_config(ROOT / "recipes" / "quickstart.yaml", [*DREAM, *overrides])
    for stage in (collect, annotate, sft):
        stage(config)
    folder = config.run_dir
    seed_data = read_parquet(folder / "data" / "annotated.parquet")
    with start_services(config, folder / "warm_start", world=folder / "world", seed_data=seed_data) as services:
        tasks = tasks_of(config)
        for size in GROUP_SIZES:
            update = {"group_size": size, "groups": DREAMED // size}
            own = config.model_copy(update={"train": config.train.model_copy(update=update)})
            fresh, tasks = tasks, tasks[(ROUNDS + 1) * own.train.groups :]
            if size in curve.missing(GROUP_SIZES):
                kept: list[Trajectory] = []
                curve.keep(size, rounds(partial(dream, services, own, fresh, kept)) | dreamed(kept))


def dream(
    services: Services, config: RunConfig, tasks: Sequence[Task], kept: list[Trajectory], number: int
) -> list[Trajectory]:
    """Play a round; all but the first are added to `kept`."""
    assert services.fleet is not None
    trajectories = services.fleet.play(episodes_of(config, tasks, number))
    kept += trajectories if number else []
    return trajectories


def dreamed(trajectories: Sequence[Trajectory]) -> Point:
    """What the memo spared, over all rounds."""
    told = rollout_metrics(trajectories, 0.0, [])
    return {
        "shared": round(told["rollout/dream_shared"], 3),
        "dream_tokens_per_episode": round(told["rollout/dream_computed"] / told["rollout/episodes"], 1),
        "steps_per_episode": round(told["dream/steps"], 2),
        "env_failed": told["dream/env_failed"],
    }


def rounds(play: Callable[[int], Sequence[Trajectory]]) -> Point:
    """Median seconds and rates of rounds, and CPU time by part; a first round warms up."""
    seconds, turns, cpu, elsewhere = [], [], [], []
    for number in range(ROUNDS + 1):
        before, machine, began = cpu_seconds(), machine_seconds(), time.perf_counter()
        steps = sum(len(t.steps) for t in play(number))
        spent = time.perf_counter() - began
        if number:
            seconds.append(spent)
            turns.append(steps / spent)
            own = {part: s - before[part] for part, s in cpu_seconds().items()}
            cpu.append({part: 1000 * s / steps for part, s in own.items()})
            elsewhere.append((machine_seconds() - machine - sum(own.values())) / spent)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "turns_per_s": round(statistics.median(turns), 1),
        "cpu_ms_per_turn": {part: round(statistics.median(c[part] for c in cpu), 2) for part in cpu[0]},
        "cores_used_by_others": round(statistics.median(elsewhere), 2),
    }


def cpu_seconds() -> dict[str, float]:
    """CPU time so far of the rollout actors, of the policy's engine, of this process, and of all others below it."""
    spent = dict.fromkeys((*PARTS, "driver", "others"), 0.0)
    for process in [psutil.Process(), *TREE.refresh()]:
        try:
            times, title = process.cpu_times(), " ".join(process.cmdline())
        except psutil.Error:
            continue
        part = next((name for name, start in PARTS.items() if title.startswith(start)), "others")
        spent["driver" if process.pid == psutil.Process().pid else part] += times.user + times.system
    return spent


def machine_seconds() -> float:
    """CPU time so far of all that runs on the machine."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


@contextmanager
def played() -> Iterator[tuple[RunConfig, Path, Services]]:
    """The configuration of `Skewed`, the model, and the services with an engine and no rollout actor yet."""
    with tempfile.TemporaryDirectory() as home:
        config = RunConfig.model_validate(
            {
                "name": "growth",
                "out": home,
                "env": {"name": "skewed:Skewed", "max_steps": 12, "workers": EPISODES},
                "policy": {
                    "model": {"scratch": SMALL, "dtype": "float32"},
                    "sampling": {"max_tokens": 4},
                    "engine": {"max_model_len": 1024, "max_num_seqs": 128, "kv_cache_gib": 0.5},
                },
            }
        )
        model = prepare_model(config.policy.model, Path(home) / "model", [" ".join(WORDS)] * 50, seed=0)
        with start_services(config, model, actors=0) as services:
            yield config, model, services


@contextmanager
def fleet_of(config: RunConfig, model: Path, services: Services, actors: int) -> Iterator[RolloutFleet]:
    """A fleet whose actors have all started."""
    assert services.policy is not None
    with closing(RolloutFleet(config, str(model), services.policy, None, actors)) as fleet:
        ray.get([handle.ping.remote() for handle in fleet._handles], timeout=600)
        yield fleet


def play(fleet: RolloutFleet, count: int, number: int) -> list[Trajectory]:
    return fleet.play(skewed(count, number))


def skewed(count: int, number: int) -> list[EpisodeSpec]:
    """Episodes of different tasks, other ones in every round."""
    tasks = Skewed().tasks("train", (number + 1) * count, 0)[number * count :]
    names = [stable_id(number, task.id) for task in tasks]
    return [
        EpisodeSpec(name, task, int(name, 16), 1.0, group=task.id, iteration=number, world="real")
        for name, task in zip(names, tasks, strict=True)
    ]


if __name__ == "__main__":
    main()
