"""A run under fire for many minutes, one fault a minute: what it holds must stay flat, and nothing be left: soak.json.

    .venv/bin/python benchmarks/soak.py 30

Everything runs below this process: a cluster of two nodes, and the driver. A sample every ten seconds counts memory,
processes, shared memory, listening ports and placement groups.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.chaos import DREAM, Life, kill_node, left_behind, prepare, raylet
from benchmarks.record import ROOT, record
from dreamgym.runs.ledger import add_up
from dreamgym.runs.log import read_log
from dreamgym.runtime.processes import TREE

EVERY_S = 10.0
FAULTS = (
    "rollout actor",
    "policy engine",
    "experience-model replica",
    "learner worker",
    "replay actor",
    "driver",
    "node",
)
OVERRIDES = [*DREAM, "policy.engines=2", "train.rollout_actors=2", "train.iterations=100000", "train.minutes=0"]


class Battle:
    """The cluster, the run on it, and what is done to them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        self.second = self.cluster.add_node(num_cpus=2)
        self.life = self._begin()

    def strike(self, name: str) -> None:
        """Kill one part, or the driver, which is then started again, or a node, which another one replaces."""
        if name == "driver":
            self.life.kill()
            self.life = self._begin()
        elif name == "node":
            kill_node(self.cluster, self.second)
            self.second = self.cluster.add_node(num_cpus=2)
            self.life.roots = [self.life.process, *map(raylet, (self.cluster.head_node, self.second))]
        else:
            for process in self.life.parts(name)[:1]:  # none while everything is being started again
                process.kill()

    def _begin(self) -> Life:
        life = Life(self.out, OVERRIDES, {**os.environ, "RAY_ADDRESS": self.cluster.address})
        life.roots += map(raylet, (self.cluster.head_node, self.second))
        return life


def sample(battle: Battle, began: float) -> dict[str, Any]:
    """What everything below this process holds now."""
    family = TREE.refresh()
    groups = ray.util.placement_group_table().values()
    trained = [e["iteration"] for e in _events(battle) if e["kind"] == "trained"]
    return {
        "minute": round((time.monotonic() - began) / 60, 2),
        "iteration": trained[-1] if trained else -1,
        "memory_mib": round(TREE.memory() / 2**20),
        "driver_mib": round(_quiet(lambda: battle.life.process.memory_full_info().pss) / 2**20),
        "processes": len(family),
        "shared_memory_mib": round(shutil.disk_usage("/dev/shm").used / 2**20),
        "shared_memory_files": len(list(Path("/dev/shm").iterdir())),
        "ports": sum(_quiet(lambda p=p: _listening(p)) for p in family),
        "placement_groups": sum(group["state"] != "REMOVED" for group in groups),
    }


def _listening(process: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_LISTEN for c in process.net_connections("inet"))


def _quiet(ask: Any) -> int:
    """A number of a process, 0 where it has just died."""
    try:
        return int(ask())
    except psutil.Error:
        return 0


def _events(battle: Battle) -> list[dict[str, Any]]:
    path = battle.life.folder / "ledger.jsonl"
    return read_log(path) if path.exists() else []


def settled(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The account of the iterations that the last weights have learned from; later ones were under way at the end."""
    trained: list[int] = []
    for event in events:
        if event["kind"] == "trained":
            trained.append(event["iteration"])
        elif event["kind"] == "resumed":
            trained = [i for i in trained if i < event["iteration"]]
    last = max(trained, default=-1)
    told = add_up(e for e in events if e["kind"] == "resumed" or e["iteration"] <= last)
    return {"iterations": last + 1, **dataclasses.asdict(told)}


def soak(minutes: float, out: Path) -> dict[str, Any]:
    """Run, strike and sample; returns all that is recorded."""
    battle = Battle(out)
    ray.init(address=battle.cluster.address, log_to_driver=False)
    began = time.monotonic()
    faults, seen = itertools.cycle(FAULTS), set[psutil.Process]()
    struck: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    while (now := (time.monotonic() - began) / 60) < minutes:
        if now >= len(struck) + 1:
            struck.append({"minute": round(now, 2), "name": next(faults)})
            battle.strike(struck[-1]["name"])
        if battle.life.process.poll() is not None:
            raise RuntimeError(f"the run ended:\n{battle.life.output()[-3000:]}")
        samples.append(sample(battle, began))
        print(samples[-1], flush=True)
        seen |= set(battle.life.family())
        time.sleep(EVERY_S)
    seen = {p for p in seen | set(battle.life.family()) if p not in battle.life.roots[1:]}
    battle.life.process.send_signal(signal.SIGTERM)
    battle.life.end()
    events = _events(battle)
    ray.shutdown()
    battle.cluster.shutdown()
    return {
        "metrics": {**flatness(samples), "left_running": left_behind(list(seen))},
        "account": settled(events),
        "struck": struck,
        "samples": samples,
    }


def flatness(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the second and over the last third of the time; the first is the start."""
    third = len(samples) // 3
    names = [name for name in samples[0] if name not in ("minute", "iteration")]
    return {
        f"{name}_{when}": statistics.median(s[name] for s in part)
        for name in names
        for when, part in (("before", samples[third : 2 * third]), ("after", samples[2 * third :]))
    }


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        result = soak(minutes, prepare(home, DREAM))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    told = result["account"]
    record(ROOT / "docs" / "results" / "soak.json", f"python benchmarks/soak.py {minutes:g}", **result)
    sys.exit("trajectories were lost, or trained twice" if told["lost"] or told["trained_twice"] else 0)


if __name__ == "__main__":
    main()
