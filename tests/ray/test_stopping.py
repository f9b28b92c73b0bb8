"""A signal in the middle of a run with a local Ray: one sentence, and neither Ray nor its workers' children stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tests.waiting import HANG_S, until_ended

pytestmark = pytest.mark.usefixtures("no_ray")

RAYS_PATIENCE_S = 3
"""Its handler of SIGTERM aborts a process whose main thread has not ended by then."""
RUN = """
    import ctypes, subprocess, sys, threading, types
    import ray
    import dreamgym.cli as cli
    from dreamgym.commands import Command

    @ray.remote
    class Engine:
        def start(self):
            return subprocess.Popen(["sleep", "infinity"]).pid

    def run(config):
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
        engine = Engine.remote()
        print(ray.get(engine.start.remote()), flush=True)
        if sys.argv[2] == "busy":
            print("busy", flush=True)
            ctypes.CDLL(None).system(b"read line")  # Python sees no signal before it ends
        threading.Event().wait()

    stage = types.ModuleType("stage")
    stage.run = run
    sys.modules["stage"] = stage
    cli.COMMANDS["train"] = Command("stage:run", "")
    sys.exit(cli.main(["train", "out=" + sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("number", "code", "main_thread"),
    [(signal.SIGINT, 130, "idle"), (signal.SIGTERM, 143, "idle"), (signal.SIGTERM, 143, "busy")],
    ids=str,
)
def test_a_signal_ends_ray_and_everything_its_workers_started(
    tmp_path: Path, number: signal.Signals, code: int, main_thread: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(tmp_path), main_thread],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip().isdigit(), process.communicate()[1]
    family = psutil.Process(process.pid).children(recursive=True)
    assert int(line) in {p.pid for p in family}
    assert len(family) >= 4  # the global store, the node's daemon, the worker and its child
    if main_thread == "busy":
        assert process.stdout.readline().strip() == "busy"
    process.send_signal(number)
    if main_thread == "busy":
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2 * RAYS_PATIENCE_S)
    _, err = process.communicate("\n", timeout=HANG_S)
    assert process.returncode == code, err
    assert "stopped; finished work is kept in" in err
    assert "Traceback" not in err
    until_ended(family)
