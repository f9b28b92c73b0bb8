"""A small run to break: how it is made, which process is which part of it, and what must be true when it has ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from dreamgym.runs.ledger import Account, account
from dreamgym.runs.log import read_log
from dreamgym.schema import read_parquet
from tests import tiny

T = TypeVar("T")
NAME = "chaos"
SMALL = [
    f"name={NAME}",
    "train.groups=4",
    "train.group_size=4",
    "train.eval_every=0",
    "train.checkpoint_every=2",
    "learner.algorithm=reinforce_pp",
    "learner.workers=2",
]
"""The algorithm is one that learns from every batch, also where no episode is won: so each must show in the weights."""
REAL = [*SMALL, "env.workers=8", *tiny.REAL]
DREAM = [*SMALL, "env.workers=8", *tiny.DREAM]
TITLES = {
    "rollout actor": "ray::RolloutActor",
    "policy engine": "ray::PolicyEngine",
    "experience-model replica": f"ray::ServeReplica:dream-{NAME}-seed0:ExperienceModel",
    "learner worker": "ray::LearnerWorker",
    "replay actor": "ray::ReplayActor",
    "environment": "java",
}
"""How the process of each part calls itself, at the beginning of its command line."""


def prepare(out: Path, overrides: Sequence[str]) -> Path:
    """Collect, annotate and tune, once; returns the folder to copy runs from."""
    stages = "import sys; from dreamgym.cli import main; [main([s, *sys.argv[1:]]) == 0 or sys.exit(1) for s in {}]"
    code = stages.format(["collect", "annotate", "sft"])
    call = [sys.executable, "-c", code, str(tiny.RECIPE), *overrides, f"out={out}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return out


def until(what: str, ask: Callable[[], T | None], timeout_s: float = 1800.0) -> T:
    """Ask until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while (answer := ask()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s")
        time.sleep(0.02)
    return answer


class Life:
    """`dreamgym train` in a process of its own, from its start until it ends or is killed."""

    def __init__(self, out: Path, overrides: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.folder = out / f"{NAME}-seed0" / "train"
        self._seen_before = len(self._events())
        self._output = tempfile.NamedTemporaryFile("w+", prefix=f"{NAME}-", encoding="utf-8")  # noqa: SIM115
        call = [sys.executable, "-m", "dreamgym.cli", "train", str(tiny.RECIPE), *overrides, f"out={out}"]
        self.process = psutil.Popen(
            call, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True, env=env or dict(os.environ)
        )
        self.roots = [self.process]
        """Processes below which the parts are found: a cluster's nodes come to the driver's own."""

    def family(self) -> list[psutil.Process]:
        """All processes of the run, the roots included."""
        found: set[psutil.Process] = set()
        for root in self.roots:
            with suppress(psutil.NoSuchProcess):
                found |= {root, *root.children(recursive=True)}
        return list(found)

    def parts(self, name: str) -> list[psutil.Process]:
        """The live processes of a part, such as "policy engine"."""
        return [p for p in self.family() if _title(p).startswith(TITLES[name])]

    def wait_for(self, event: str, iteration: int) -> None:
        """Until the ledger tells, in this life, of an event of that iteration or a later one."""
        until(
            f"'{event}' of iteration {iteration}",
            lambda: self._ended() or self._told(event, iteration) or None,
        )

    def part_at(self, event: str, iteration: int, part: str) -> psutil.Process:
        """The process of a part, looked up before the event is waited for, to be hit at that very moment."""
        found = until(part, lambda: (self.parts(part) or [None])[0])
        self.wait_for(event, iteration)
        return found

    def end(self, timeout_s: float = 1800.0) -> int:
        """Wait for its end; returns the exit status (-9: killed)."""
        return int(self.process.wait(timeout_s))

    def kill(self) -> None:
        """Kill the driver; what it started has to notice by itself."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def output(self) -> str:
        """What it has said so far."""
        return Path(self._output.name).read_text(encoding="utf-8")

    def _ended(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the run ended too soon:\n{self.output()[-3000:]}")
        return False

    def _told(self, event: str, iteration: int) -> bool:
        return any(e["kind"] == event and e["iteration"] >= iteration for e in self._events()[self._seen_before :])

    def _events(self) -> list[dict[str, Any]]:
        path = self.folder / "ledger.jsonl"
        return read_log(path) if path.exists() else []


def check(folder: Path) -> Account:
    """What became of the trajectories of a run that has ended; its weights must have learned from each batch once."""
    told = account(folder / "ledger.jsonl")
    steps = [r for r in read_log(folder / "metrics.jsonl") if r["kind"] == "iteration"]
    assert [r["iteration"] for r in steps] == list(range(1, len(steps) + 1)), "an iteration is missing or told twice"
    learned = [r["learner/updates"] for r in steps if not r.get("learner/skipped")]
    assert learned == list(range(1, len(learned) + 1)), f"updates that the weights have seen: {learned}"
    summary = json.loads((folder.parent / "stages" / "train.json").read_text(encoding="utf-8"))["summary"]
    assert summary["iterations"] == len(steps)
    return told


def failed(folder: Path) -> int:
    """Episodes of a run that stayed without a result, after all tries."""
    files = sorted((folder / "trajectories").glob("*.parquet"))
    return sum(t.status != "ok" for file in files for t in read_parquet(file))


def left_behind(family: Sequence[psutil.Process], timeout_s: float = 60.0) -> list[str]:
    """The titles of processes that still run some time after the end of the run that they belonged to."""
    _, alive = psutil.wait_procs(family, timeout=timeout_s)
    return [_title(p) for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def raylet(node: Any) -> psutil.Process:
    """The process below which all of a node's workers run; `node` is one of `ray.cluster_utils.Cluster`."""
    (found,) = node.all_processes["raylet"]
    return psutil.Process(found.process.pid)


def kill_node(cluster: Any, node: Any) -> None:
    """Kill a node of a cluster on this machine, with whatever runs there."""
    doomed = raylet(node).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in doomed:
        if process.is_running():
            process.kill()


def _title(process: psutil.Process) -> str:
    try:
        line = process.cmdline()
    except psutil.Error:
        return ""
    return os.path.basename(line[0]) if line and not line[0].startswith("ray::") else " ".join(line)
