"""A key that a run is given is told to the service that it is for, and written nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dreamgym.cli import main
from dreamgym.config import EnvConfig
from dreamgym.envs.base import act, make_env
from dreamgym.errors import EnvError
from tests.waiting import HANG_S

KEY = "sk-0123456789-told-to-nobody"


class Echo(ThreadingHTTPServer):
    """A teacher that tells in every answer which key it was given."""

    daemon_threads = True
    status = 200
    heard: str | None = None


class _Handler(BaseHTTPRequestHandler):
    server: Echo

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard = self.headers["Authorization"]
        choice = {"message": {"content": "because"}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "error": f"refused: {self.headers['Authorization']}"}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "ended"), [(200, 0), (401, 2)])
def test_a_run_with_a_key_leaves_no_trace_of_it(
    echo: Echo,
    status: int,
    ended: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MY_TEACHERS_KEY", KEY)
    echo.status = status
    steps = [{"state": "hall", "action": "go"}, {"state": "attic", "action": "open"}]
    rows = [{"task": {"id": f"t{n}", "instruction": "open"}, "steps": steps, "success": True} for n in range(3)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = [
        *(
            f"out={tmp_path / 'runs'}",
            "env.name=examples.keyhouse:KeyHouse",
            f"env.timeout_s={HANG_S}",
            f"collect.files=[{tmp_path / 'mine.jsonl'}]",
        ),
        *("annotate.by=teacher", f"annotate.teacher.base_url=http://127.0.0.1:{echo.server_port}/v1"),
        *("annotate.teacher.model=m", "annotate.teacher.api_key_env=MY_TEACHERS_KEY"),
        f"annotate.teacher.timeout_s={HANG_S}",
    ]
    with caplog.at_level("DEBUG"):
        assert main(["collect", *run]) == 0
        assert main(["annotate", *run]) == ended
        main(["report", *run])
    said = capfd.readouterr()
    assert echo.heard == f"Bearer {KEY}"
    assert KEY not in said.out + said.err + caplog.text
    assert ("[key]" in said.err) == (status == 401)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@pytest.mark.parametrize("field", ["replay.qdrant.url", "annotate.teacher.base_url"])
def test_a_password_in_an_address_is_refused(field: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"out={tmp_path}", f"{field}=https://me:{KEY}@example.org"]) == 2
    said = capfd.readouterr().err
    assert f"'{field}' holds a password" in said and KEY not in said


def test_options_of_an_environment_are_named_and_not_told() -> None:
    with pytest.raises(EnvError, match=r"cannot be built with token: ") as caught:
        make_env(EnvConfig(name="examples.keyhouse:KeyHouse", options={"token": KEY}))
    assert KEY not in str(caught.value)


def test_a_sentence_cannot_steer_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"out={tmp_path}", "env.no\x1b[2Jwhere=1"]) == 2
    assert "\x1b[2J" not in capfd.readouterr().err


@pytest.mark.parametrize("state", ["x" * 1_000_001, "half \ud800"])
def test_a_state_that_cannot_be_kept_is_a_fault_of_the_environment(state: str) -> None:
    class Game:
        def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, object]]:
            return state, 0.0, False, False, {}

    with pytest.raises(ValueError, match=r"characters, more than|surrogates not allowed"):
        act(Game(), "go")  # type: ignore[arg-type]
