"""A fork is the process that its command was to start, with modules that are there already."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamgym.runtime import fork_server
from tests.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the server forks on Linux alone")
PROGRAM = """
import json, os, signal, sys
there = sorted({"colorsys", "sndhdr", "prepared"} & set(sys.modules))
told = dict(argv=sys.argv[1:], folder=os.getcwd(), pid=os.getpid(), session=os.getsid(0), there=there, path=sys.path)
told.update(mine=os.environ.get("MINE"), made=os.environ.get("MADE"), main=__name__)
told.update(interrupt=signal.getsignal(signal.SIGINT) is signal.default_int_handler, child=os.system("exit 3") >> 8)
print(json.dumps(told), flush=True)
sys.stdin.readline()
sys.exit(5)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fork_server.ForkServer]:
    (tmp_path / "prepared.py").write_text("import os\nos.environ['MADE'] = os.environ['MINE'] = 'by an import'\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    server = fork_server.ForkServer()
    yield server
    server.close()


def start(server: fork_server.ForkServer, folder: Path, *modules: str, **environment: str) -> subprocess.Popen[str]:
    program = folder / "programs" / "program.py"
    program.parent.mkdir(exist_ok=True)
    program.write_text(PROGRAM)
    command = shlex.split(server.options(modules)["runtime_env"]["py_executable"])
    call = [*command, str(program), "--word", "two words"]
    pipe = subprocess.PIPE
    return subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True, cwd=folder, env=os.environ | environment)


def test_a_fork_is_what_the_command_was_to_start(server: fork_server.ForkServer, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(start(server, tmp_path, "prepared", "colorsys", MINE="own"))
        told = [json.loads(first.stdout.readline())]  # type: ignore[union-attr]
        second = stack.enter_context(start(server, tmp_path))
        told += [json.loads(second.stdout.readline())]  # type: ignore[union-attr]
        assert [t["argv"] for t in told] == [["--word", "two words"]] * 2
        assert {t["folder"] for t in told} == {str(tmp_path)} and {t["main"] for t in told} == {"__main__"}
        assert [t["mine"] for t in told] == ["own", "by an import"], "what a worker is started with goes first"
        assert {t["made"] for t in told} == {"by an import"}
        assert all({"colorsys", "prepared"} <= set(t["there"]) for t in told)
        assert all(t["path"][:2] == [str(tmp_path / "programs"), str(tmp_path)] for t in told)
        assert all(t["path"].count(str(tmp_path)) == 1 for t in told)
        assert all(t["pid"] == t["session"] and t["interrupt"] and t["child"] == 3 for t in told)
        assert len({t["pid"] for t in told} | {first.pid, second.pid}) == 4
        first.communicate("\n")
        assert second.poll() is None
        second.communicate("\n")
    assert first.returncode == second.returncode == 0


def test_what_cannot_be_imported_is_left_to_the_worker(server: fork_server.ForkServer, tmp_path: Path) -> None:
    with start(server, tmp_path, "no_such_module", "colorsys", MINE="own") as process:
        assert json.loads(process.communicate("\n")[0])["there"] == ["colorsys"]


def test_a_signal_reaches_the_fork(server: fork_server.ForkServer, tmp_path: Path) -> None:
    with start(server, tmp_path) as process:
        fork = json.loads(process.stdout.readline())["pid"]  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        process.wait()
        until("the fork ends", lambda: not Path(f"/proc/{fork}").exists())


def test_where_no_server_answers_the_program_starts_as_ever(tmp_path: Path) -> None:
    server = fork_server.ForkServer()
    server.close()
    with start(server, tmp_path, "colorsys", MINE="own") as process:
        told = json.loads(process.communicate("\n")[0])
        assert told["pid"] == process.pid and told["there"] == [] and told["mine"] == "own"
        assert process.returncode == 5


def test_the_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    code = """
import os, sys
from dreamgym.runtime import fork_server
server = fork_server.ForkServer()
print(server._process.pid, os.path.dirname(server._address), flush=True)
os.kill(os.getpid(), 9)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == -signal.SIGKILL, told.stderr
    pid, folder = told.stdout.split()
    until("the server and its folder are gone", lambda: not Path(f"/proc/{pid}").exists() and not Path(folder).exists())


def test_only_a_local_ray_of_cpus_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_server, "_wanted", False)
    monkeypatch.setattr(fork_server, "_server", None)
    assert fork_server.options("colorsys") == {}
    fork_server.enable()
    assert fork_server.options("colorsys", gpus=0.5) == {}
    try:
        assert "colorsys" in fork_server.options("colorsys")["runtime_env"]["py_executable"]
    finally:
        fork_server.close()
    assert fork_server.options("colorsys") == {}


def test_without_room_for_a_socket_workers_start_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    fork_server.enable()
    assert fork_server.options("colorsys") == {} == fork_server.options("colorsys")
    assert caplog.text.count("no fork server can start") == 1 and not list(deep.iterdir())


def test_what_engines_and_learner_share_is_imported_without_ray_and_changes_nothing_for_the_others() -> None:
    code = """
import sys
from dreamgym.inference.engine import MODULES
from dreamgym.learner.learner import MODULES as LEARNERS
for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
    del sys.modules[name]
from dreamgym.runtime import fork_server
added = fork_server._import([*LEARNERS, *MODULES])
assert {*LEARNERS, *MODULES} <= sys.modules.keys(), "all can be imported"
assert "ray" not in sys.modules and not {name for name in added if name.startswith("RAY_")}
import torch
assert not torch._dynamo.config.disable and "TORCHDYNAMO_DISABLE" not in added and "DS_ACCELERATOR" not in added
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
