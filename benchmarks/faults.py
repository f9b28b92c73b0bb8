"""Kills, stops and starves every part of a running run, and counts what became of its trajectories: faults.json.

    .venv/bin/python benchmarks/faults.py            # all of them, about half an hour on 2 cores
    .venv/bin/python benchmarks/faults.py driver node

Each case is kept as soon as it is over; what the file holds of cases that are not asked for stays.
A run that stops in one sentence is given what it lacked and started again; it must go on where it was. The disk is a
small tmpfs, which needs root; without, that case is left out and said so.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.chaos import DREAM, NAME, REAL, Life, check, failed, kill_node, left_behind, prepare, raylet, until
from benchmarks.record import ROOT, write
from dreamgym.runtime.processes import TREE

ITERATIONS = 6
RESULT = ROOT / "docs" / "results" / "faults.json"


class Case:
    """A run about to suffer: its folder, its settings, and what it has said when it stopped."""

    def __init__(self, prepared: Path, out: Path, overrides: list[str]) -> None:
        shutil.copytree(prepared / f"{NAME}-seed0", out / f"{NAME}-seed0")
        self.out = out
        self.overrides = [*overrides, f"train.iterations={ITERATIONS}"]
        self.stopped = ""
        self.family: set[Any] = set()

    def begin(self, *more: str, env: dict[str, str] | None = None) -> Life:
        life = Life(self.out, [*self.overrides, *more], env)
        return life

    def end(self, life: Life) -> None:
        """Wait for the end; where it stops with a sentence, that is kept."""
        self.family |= set(life.family())
        code = life.end()
        if code not in (0, 2):
            raise RuntimeError(f"exit status {code}:\n{life.output()[-3000:]}")
        if code == 2:
            lines = [line for line in life.output().splitlines() if line.startswith("error: ")]
            if len(lines) != 1:
                raise RuntimeError(f"not one sentence:\n{life.output()[-3000:]}")
            self.stopped = lines[0].removeprefix("error: ")

    def account(self) -> dict[str, Any]:
        """The counts of the run that has ended, and what it left running."""
        folder = self.out / f"{NAME}-seed0" / "train"
        told = dataclasses.asdict(check(folder)) | {"env_failed": failed(folder)}
        return told | {"stopped_with": self.stopped, "left_running": left_behind(list(self.family))}


def killed(part: str, event: str = "started") -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        life = case.begin()
        life.wait_for(event, 1)
        process = life.part_at(event, 3, part)
        case.family |= set(life.family())
        process.kill()
        case.end(life)

    return fault


def hung(part: str, *limits: str) -> Callable[[Case], None]:
    """Stopped by SIGSTOP: alive, and silent; where the run ends for it, it is run again."""

    def fault(case: Case) -> None:
        life = case.begin(*limits)
        life.wait_for("started", 1)
        process = life.part_at("started", 3, part)
        case.family |= set(life.family())
        process.suspend()
        case.end(life)
        if case.stopped:
            case.end(case.begin(*limits))

    return fault


def driver(case: Case) -> None:
    life = case.begin()
    life.wait_for("started", 3)
    case.family |= set(life.family())
    life.kill()
    case.end(case.begin())


def driver_in_a_checkpoint(case: Case) -> None:
    life = case.begin()
    partial = life.folder / "checkpoints" / "iteration-00004.partial"
    until("a checkpoint under way", lambda: partial.exists() or None)
    case.family |= set(life.family())
    life.kill()
    case.end(case.begin())


def node(case: Case) -> None:
    """Two nodes, and the one on which the driver is not dies with whatever runs there."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=2)
        more = ["policy.engines=2", "train.rollout_actors=2"]
        life = case.begin(*more, env={**os.environ, "RAY_ADDRESS": cluster.address})
        life.roots += map(raylet, (cluster.head_node, second))
        life.wait_for("started", 3)
        case.family |= set(life.family())
        kill_node(cluster, second)
        case.end(life)
    finally:
        cluster.shutdown()


def full_disk(case: Case) -> None:
    """The disk fills up under the run, and is emptied after it has stopped."""
    life = case.begin()
    life.wait_for("started", 3)
    ballast = case.out / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            pass
    case.end(life)
    ballast.unlink()
    if not case.stopped:
        raise RuntimeError("a full disk went unnoticed")
    case.end(case.begin())


def qdrant_down(case: Case) -> None:
    """The service is not there at the start; the run stops, and goes well with the embedded one."""
    case.end(case.begin("replay.qdrant.url=http://127.0.0.1:9"))
    if "replay.qdrant.url" not in case.stopped:
        raise RuntimeError(f"Qdrant is not named: {case.stopped}")
    case.end(case.begin())


FAULTS: dict[str, tuple[Callable[[Case], None], list[str]]] = {
    "rollout actor": (killed("rollout actor"), DREAM),
    "policy engine": (killed("policy engine"), DREAM),
    "experience-model replica": (killed("experience-model replica"), DREAM),
    "learner worker": (killed("learner worker", "finished"), DREAM),
    "replay actor": (killed("replay actor"), DREAM),
    "node": (node, DREAM),
    "driver": (driver, DREAM),
    "driver in a checkpoint": (driver_in_a_checkpoint, DREAM),
    "hung policy engine": (hung("policy engine", "policy.engine.timeout_s=10", "train.episode_timeout_s=30"), DREAM),
    "hung experience-model replica": (
        hung("experience-model replica", "world.engine.timeout_s=10", "train.episode_timeout_s=30"),
        DREAM,
    ),
    "hung environment": (hung("environment", "env.timeout_s=3"), REAL),
    "full disk": (full_disk, DREAM),
    "Qdrant down": (qdrant_down, DREAM),
}


@contextmanager
def folder(name: str) -> Iterator[Path | None]:
    """Where a case runs; for the full disk a small one of its own, None where it cannot be had."""
    path = Path(tempfile.mkdtemp(prefix="faults-"))
    small = name == "full disk"
    mounted = small and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", path]).returncode == 0
    try:
        yield None if small and not mounted else path
    finally:
        if mounted:
            subprocess.run(["umount", "-l", path], check=True)
        shutil.rmtree(path, ignore_errors=True)


def main() -> None:
    names = sys.argv[1:] or list(FAULTS)
    home = Path(tempfile.mkdtemp(prefix="faults-prepared-"))
    prepared: dict[int, Path] = {}
    results = {r["name"]: r for r in json.loads(RESULT.read_text())["faults"]} if RESULT.exists() else {}
    try:
        for name in names:
            fault, overrides = FAULTS[name]
            if id(overrides) not in prepared:
                prepared[id(overrides)] = prepare(home / str(len(prepared)), overrides)
            with folder(name) as out:
                if out is None:
                    print(f"{name}: left out, since no tmpfs could be mounted")
                    continue
                began = time.monotonic()
                case = Case(prepared[id(overrides)], out, overrides)
                result: dict[str, Any] = {"name": name}
                try:
                    fault(case)
                    result |= case.account()
                except (AssertionError, RuntimeError, TimeoutError, OSError) as error:
                    result |= {"error": str(error), "stopped_with": case.stopped}
                    TREE.end()
                results[name] = result | {"seconds": round(time.monotonic() - began, 1)}
                print(results[name], flush=True)
                keep(results)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    bad = [name for name, r in results.items() if not sound(r)]
    sys.exit(f"not as it should be: {', '.join(bad)}" if bad else 0)


def sound(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, trained twice or left running."""
    return not any(result.get(count, 1) for count in ("lost", "trained_twice", "left_running"))


def keep(results: dict[str, dict[str, Any]]) -> None:
    """Write the results in the order of the cases."""
    write(RESULT, "python benchmarks/faults.py", faults=[results[name] for name in FAULTS if name in results])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
