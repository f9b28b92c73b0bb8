"""A run on a head that is already there, submitted as a user does it, with Ray's token authentication on."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from dreamgym.schema import read_parquet
from tests.tiny import PATIENT, REAL, RECIPE
from tests.waiting import HANG_S, until

pytestmark = pytest.mark.usefixtures("no_ray")

RAY = str(Path(sys.executable).with_name("ray"))
TINY = [
    *REAL,
    *PATIENT,
    "name=job",
    "env.workers=4",
    "train.iterations=2",
    "train.groups=2",
    "train.group_size=4",
    "train.eval_every=2",
    "policy.format=react",
    "policy.malformed=penalty",
    "policy.context=window",
    "policy.context_turns=2",
    "policy.sampling.max_tokens=48",
    "annotate.thoughts=rule",
    "train.eval_games=4",
    "eval.games=4",
]


class Head(NamedTuple):
    """A running head: its dashboard, and the environment that holds the token."""

    url: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def status(url: str, token: str = "") -> int:
    """The HTTP status of a request for the list of jobs; 0 where nobody answers yet."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/api/jobs/", headers=headers), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: sockets have long names in it
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}
    process = subprocess.Popen(
        [
            *(RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"),
            *(f"--port={free_port()}", f"--dashboard-port={port}", "--dashboard-host=127.0.0.1"),
            f"--dashboard-agent-listen-port={free_port()}",  # another Ray may have the usual one
            f"--object-store-memory={512 * 2**20}",
            f"--temp-dir={folder}",  # its own, for the address of this head must not be found by other tests
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    found = Head(f"http://127.0.0.1:{port}", environment)
    try:
        answers = partial(status, found.url, environment["RAY_AUTH_TOKEN"])
        until("the head", lambda: process.poll() is not None or answers() == 200, pause_s=0.5)
        assert process.poll() is None, "the head did not start"
        # The dashboard answers before its agent takes jobs.
        until("a head that takes jobs", lambda: _ray_job(found, "true").returncode == 0)
        yield found
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=30)
        for straggler in left:
            straggler.kill()
        shutil.rmtree(folder, ignore_errors=True)


def submit(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` from the folder of the recipe; returns when the job has ended, with its log."""
    return _ray_job(head, sys.executable, "-m", "dreamgym.cli", *command)


def _ray_job(head: Head, *command: str) -> subprocess.CompletedProcess[str]:
    call = [RAY, "job", "submit", "--address", head.url, "--working-dir", str(RECIPE.parent), "--"]
    return subprocess.run([*call, *command], env=head.environment, capture_output=True, text=True, timeout=HANG_S)


def test_without_the_token_nobody_submits(head: Head) -> None:
    assert status(head.url) == 401
    assert status(head.url, "wrong") in (401, 403)


def test_the_doctor_passes_the_head(head: Head, tmp_path: Path) -> None:
    done = submit(head, "doctor", RECIPE.name, f"out={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✓ versions: 1 node" in done.stdout
    assert "✗" not in done.stdout


def test_a_run_is_submitted_and_goes_on_where_it_stopped(head: Head, tmp_path: Path) -> None:
    first = submit(head, "quickstart", RECIPE.name, *TINY, f"out={tmp_path}")
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-2000:]
    run = tmp_path / "job-seed0"
    told = re.search(r"the job's page is (http://\S+)/#/jobs/(raysubmit_\w+); .*`dreamgym view (\S+)`", first.stdout)
    assert told is not None and told[3] == str(run)
    asked = urllib.request.Request(
        f"{told[1]}/api/jobs/{told[2]}", headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        assert json.load(answer)["status"] == "SUCCEEDED", "the page of this very job"
    lines = [json.loads(line) for line in (run / "train" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines if line["kind"] == "iteration"] == [1, 2]
    assert (run / "report.html").exists()
    check_thoughts_and_windows(run, lines)
    again = submit(head, "quickstart", RECIPE.name, *TINY, f"out={tmp_path}")
    assert again.returncode == 0, again.stdout[-3000:]
    assert again.stdout.count("done before") >= 5


def check_thoughts_and_windows(run: Path, lines: list[dict[str, Any]]) -> None:
    """The warm start was shown thoughts; what the policy wrote is kept apart; engine and learner read the same."""
    shown = [step for t in read_parquet(run / "data" / "annotated.parquet") for step in t.steps]
    assert all(bool(step.thought) == step.by_expert for step in shown)
    played = [t for path in (run / "train" / "trajectories").glob("*.parquet") for t in read_parquet(path)]
    steps = [step for t in played for step in t.steps]
    assert steps and all(bool(step.action) != bool(step.malformed) for step in steps)
    for step in steps:
        if step.malformed:
            assert step.reward == pytest.approx(-0.1) and step.next_state.startswith("Nothing was done")
        else:
            assert step.answer.endswith(step.action) and "Action:" in step.answer
    assert {len(t.samples) for t in played if t.steps} == {max(1, len(t.steps) - 2) for t in played if t.steps}
    updates = [line for line in lines if "learner/gap_mean" in line]
    assert updates and all(line["learner/gap_mean"] <= 0.01 for line in updates)


def test_a_mistake_fails_the_job_with_its_sentence(head: Head) -> None:
    done = submit(head, "train", RECIPE.name, "learner.lrr=1")
    assert done.returncode != 0
    assert "learner.lrr" in done.stdout + done.stderr
