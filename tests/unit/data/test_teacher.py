"""Reasoning by a teacher: a real HTTP endpoint that answers well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tenacity import RetryCallState, wait_none

from dreamgym.commands.annotate import annotate
from dreamgym.commands.collect import collect
from dreamgym.config import TeacherConfig
from dreamgym.data import teacher
from dreamgym.data.teacher import ask, questions
from dreamgym.errors import ConfigError, DataError, EngineError
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.types import Trajectory, Transition
from tests.unit.commands.test_annotate import rooms, run_config
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
KEY = "sk-this-is-secret"
Reply = tuple[int, bytes]


def good(text: str = "the  door\nis open", prompt: int = 7, completion: int = 3, finish: str = "stop") -> Reply:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return 200, json.dumps({"choices": [choice], "usage": usage}).encode()


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint; `script(prompt, n)` gives the answer to the n-th request for a prompt."""

    daemon_threads = True

    def __init__(self, script: Callable[[str, int], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.lock = script, threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.seen: Counter[str] = Counter()
        self.flying = self.most_flying = 0
        self.headers: dict[str, str] = {}
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.requests.append({"path": self.path, **body})
            self.server.keys.add(self.headers.get("Authorization"))
            self.server.seen[prompt] += 1
            number = self.server.seen[prompt]
            self.server.flying += 1
            self.server.most_flying = max(self.server.flying, self.server.most_flying)
        status, answer = self.server.script(prompt, number)
        with self.server.lock:
            self.server.flying -= 1
        try:
            self.send_response(status)
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str, int], Reply]], Endpoint]]:
    started: list[Endpoint] = []

    def start(script: Callable[[str, int], Reply]) -> Endpoint:
        started.append(Endpoint(script))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.shutdown()
        endpoint.server_close()


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "BACKOFF", wait_none())
    monkeypatch.setenv("TEACHER_KEY", KEY)


def settings(url: str, **fields: Any) -> TeacherConfig:
    return TeacherConfig(
        **{"base_url": url, "model": "m", "api_key_env": "TEACHER_KEY", "concurrency": 4, "timeout_s": HANG_S, **fields}
    )


def test_every_step_is_asked_once_with_what_decides_it_and_the_answer_is_kept_on_one_line(
    serve: Any, tmp_path: Path
) -> None:
    endpoint = serve(lambda prompt, n: good())
    trajectories, ticks = rooms(5), []
    answers = ask(settings(endpoint.url), list(questions(trajectories)), tmp_path / "kept.jsonl", ticks.append)
    keys = {f"tr{i}/{j}" for i in range(5) for j in (0, 1)}
    assert answers.told == dict.fromkeys(keys, "the door is open")
    assert (answers.prompt_tokens, answers.completion_tokens, answers.left_out, answers.retries) == (70, 30, 0, 0)
    assert sum(ticks) == 10
    prompt = next(p for p in endpoint.seen if "State: hall 3" in p)
    for part in ("leave room 3", "room 3", "[action] go", "Action: exit", "Next state: out", "Reward: 1"):
        assert part in prompt
    assert set(endpoint.seen.values()) == {1}
    assert {r["path"] for r in endpoint.requests} == {"/v1/chat/completions"}
    assert {(r["model"], r["max_tokens"], r["temperature"]) for r in endpoint.requests} == {("m", 256, 0.3)}


BAD: list[Reply] = [
    (500, b"oops"),
    (429, b"slow down"),
    (200, b"<html>not json"),
    (200, b"\xff\xfe"),
    (200, b"[]"),
    (200, b'{"choices": []}'),
    (200, b'{"choices": [{"message": {"content": null}}]}'),
    (200, b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
    (200, b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "many"}}'),
    good("  \n "),
    good("and then the", finish="length"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda reply: str(reply[1][:30]))
def test_a_bad_answer_is_asked_again_and_then_left_out_and_counted(serve: Any, tmp_path: Path, bad: Reply) -> None:
    endpoint = serve(lambda prompt, n: bad if "hall 1" in prompt.split("Next")[0] or n == 1 else good())
    answers = ask(
        settings(endpoint.url, attempts=2), list(questions(rooms(2))), tmp_path / "kept.jsonl", lambda _: None
    )
    assert set(answers.told) == {"tr0/0", "tr0/1", "tr1/0"}
    assert (answers.left_out, answers.retries) == (1, 4)
    assert set(endpoint.seen.values()) == {2}


def test_tokens_of_unusable_answers_are_counted_too(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good("", 100, 10) if n == 1 else good("fine", 1, 1))
    answers = ask(settings(endpoint.url), list(questions(rooms(3))), tmp_path / "kept.jsonl", lambda _: None)
    assert (answers.prompt_tokens, answers.completion_tokens) == (6 * 101, 6 * 11)


def test_a_slow_answer_misses_its_deadline(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer comes before both questions have missed theirs, and so have not been waited for any longer."""
    missed: list[RetryCallState] = []
    both_missed = threading.Event()

    def script(prompt: str, n: int) -> Reply:
        both_missed.wait(HANG_S)
        return good()

    def try_again(state: RetryCallState) -> float:
        config.timeout_s = HANG_S
        missed.append(state)
        if len(missed) == 2:
            both_missed.set()
        return 0.0

    config = settings(serve(script).url, timeout_s=0.3)
    monkeypatch.setattr(teacher, "BACKOFF", try_again)
    answers = ask(config, list(questions(rooms(1))), tmp_path / "k.jsonl", lambda _: None)
    assert (len(answers.told), answers.retries) == (2, 2)


def test_the_endpoint_says_how_long_to_wait(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: (429, b"") if n == 1 else good())
    endpoint.headers = {"Retry-After": "1"}
    begin = time.monotonic()
    answers = ask(settings(endpoint.url), list(questions(rooms(1))), tmp_path / "k.jsonl", lambda _: None)
    assert time.monotonic() - begin > 0.9
    assert answers.left_out == 0


def test_no_more_requests_than_allowed_are_in_flight(serve: Any, tmp_path: Path) -> None:
    def script(prompt: str, n: int) -> Reply:
        with suppress(threading.BrokenBarrierError):  # of those that come when three were there
            together.wait(HANG_S)
            together.abort()
        time.sleep(0.03)  # in which a fourth could come, were it allowed
        return good()

    endpoint, together = serve(script), threading.Barrier(3)
    ask(settings(endpoint.url, concurrency=3), list(questions(rooms(10))), tmp_path / "k.jsonl", lambda _: None)
    assert endpoint.most_flying == 3


def test_an_endpoint_that_is_down_stops_the_stage_with_the_reason(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good())
    url = endpoint.url
    endpoint.shutdown()
    endpoint.server_close()
    with pytest.raises(EngineError, match=r"16 transitions in a row.*ConnectError.*run this again"):
        ask(settings(url, attempts=2), list(questions(rooms(40))), tmp_path / "k.jsonl", lambda _: None)


def test_not_one_usable_answer_is_an_error_and_not_an_empty_stage(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good(""))
    with pytest.raises(EngineError, match=r"not one usable answer .*empty answer"):
        ask(settings(endpoint.url, attempts=1), list(questions(rooms(1))), tmp_path / "k.jsonl", lambda _: None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base_url": ""}, "base_url: empty"),
        ({"model": ""}, "model: empty"),
        ({"base_url": "nowhere"}, "no usable address"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask(settings("x", **fields), list(questions(rooms(1))), tmp_path / "k.jsonl", lambda _: None)


def test_a_refused_key_is_not_tried_again_and_never_shown(serve: Any, tmp_path: Path, caplog: Any) -> None:
    endpoint = serve(lambda prompt, n: (401, b"wrong key"))
    with caplog.at_level("DEBUG"), pytest.raises(ConfigError) as caught:
        ask(settings(endpoint.url, concurrency=1), list(questions(rooms(3))), tmp_path / "k.jsonl", lambda _: None)
    assert "HTTP 401" in str(caught.value)
    assert "TEACHER_KEY" in str(caught.value)
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert len(endpoint.requests) == 1
    assert KEY not in str(caught.value) + caplog.text + (tmp_path / "k.jsonl").read_text()


def test_only_what_was_asked_of_the_same_model_about_the_same_step_is_taken_over(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good())
    kept = tmp_path / "kept.jsonl"

    def requests_for(trajectories: list[Trajectory], **fields: Any) -> int:
        before = len(endpoint.requests)
        answers = ask(settings(endpoint.url, **fields), list(questions(trajectories)), kept, lambda _: None)
        assert len(answers.told) == 2 * len(trajectories)
        return len(endpoint.requests) - before

    assert requests_for(rooms(3)) == 6
    assert requests_for(rooms(3)) == 0
    assert requests_for(rooms(4)) == 2
    assert requests_for(rooms(3), model="other") == 6
    changed = rooms(3)
    changed[1].steps[1] = Transition("hall 1", "exit", "a wall", 0.0, False)
    assert requests_for(changed) == 1


def test_a_line_that_was_cut_off_is_asked_again_and_a_broken_one_is_named(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good())
    kept = tmp_path / "kept.jsonl"
    asked = list(questions(rooms(3)))
    ask(settings(endpoint.url), asked, kept, lambda _: None)
    kept.write_bytes(kept.read_bytes()[:-9])
    assert len(ask(settings(endpoint.url), asked, kept, lambda _: None).told) == 6
    assert len(endpoint.requests) == 7
    lines = kept.read_text().splitlines()
    assert len(lines) == 6
    kept.write_text("\n".join([*lines[:2], "{broken", *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=r"kept\.jsonl:3: "):
        ask(settings(endpoint.url), asked, kept, lambda _: None)


def test_a_teacher_fills_the_stage_and_its_cost_is_in_the_summary(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good() if "Action: go" in prompt else good("", 5, 0))
    run = run_config(tmp_path, by="teacher", teacher=settings(endpoint.url, attempts=1).model_dump())
    collect(run)
    annotate(run)
    steps = [s for t in read_parquet(run.run_dir / "data" / "annotated.parquet") for s in t.steps]
    assert all((s.reasoning == "the door is open") == s.action.startswith("go ") for s in steps)
    record = json.loads((run.run_dir / "stages" / "annotate.json").read_text())
    going = sum(s.action.startswith("go ") for s in steps)
    assert record["summary"]["left_out"] == len(steps) - going
    assert record["summary"]["prompt_tokens"] == 7 * going + 5 * (len(steps) - going)
    assert record["tokens"] == 10 * going + 5 * (len(steps) - going)
    train = read_parquet(run.run_dir / "data" / "train.parquet")
    assert [s.next_state for t in train for s in t.steps] == [s.next_state for s in steps]


def test_a_teacher_is_asked_for_thoughts_too_and_is_not_shown_what_follows(serve: Any, tmp_path: Path) -> None:
    endpoint = serve(lambda prompt, n: good("i go" if prompt.endswith("before it acts?") else "it opens"))
    run = run_config(tmp_path, by="teacher", thoughts="teacher", teacher=settings(endpoint.url).model_dump())
    collect(run)
    annotate(run)
    steps = [s for t in read_parquet(run.run_dir / "data" / "annotated.parquet") for s in t.steps]
    assert {s.reasoning for s in steps} == {"it opens"}
    assert all(s.thought == ("i go" if s.by_expert else "") for s in steps)
    asked = [prompt for prompt in endpoint.seen if prompt.endswith("before it acts?")]
    assert asked and not any("Next state" in prompt or "Reward" in prompt for prompt in asked)


def test_reasoning_of_the_user_is_kept() -> None:
    trajectories = rooms(1)
    trajectories[0].steps[0] = Transition("a", "b", "c", 0.0, False, reasoning="mine")
    assert [q.key for q in questions(trajectories)] == ["tr0/1"]


def test_ctrl_c_keeps_the_answers_and_the_next_run_asks_only_for_the_rest(serve: Any, tmp_path: Path) -> None:
    enough = threading.Event()

    def script(prompt: str, n: int) -> Reply:
        if len(endpoint.requests) > 8 and not enough.is_set():
            interrupted.set()
            enough.wait(HANG_S)
        return good()

    interrupted = threading.Event()
    endpoint = serve(script)
    write_parquet(tmp_path / "rooms.parquet", rooms(10))
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from dreamgym.config import TeacherConfig\n"
        "from dreamgym.schema import read_parquet\n"
        "from dreamgym.data.teacher import ask, questions\n"
        "asked = list(questions(read_parquet(Path('rooms.parquet'))))\n"
        f"config = TeacherConfig(base_url={endpoint.url!r}, model='m', concurrency=2)\n"
        "try:\n"
        "    ask(config, asked, Path('kept.jsonl'), lambda n: None)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    assert interrupted.wait(HANG_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 130
    done = len((tmp_path / "kept.jsonl").read_text().splitlines())
    assert 7 <= done < 20
    enough.set()
    before = len(endpoint.requests)
    answers = ask(settings(endpoint.url), list(questions(rooms(10))), tmp_path / "kept.jsonl", lambda _: None)
    assert len(answers.told) == 20
    assert len(endpoint.requests) - before == 20 - done
