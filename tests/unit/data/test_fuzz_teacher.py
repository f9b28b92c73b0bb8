"""Whatever an endpoint sends is an explanation or worth another try: bounded, resumable, and no secret told."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import wait_none

from dreamgym.config import QdrantConfig, TeacherConfig
from dreamgym.config.credentials import credential
from dreamgym.data import teacher
from dreamgym.data.teacher import MAX_ANSWER_BYTES, Answers, Question, ask
from dreamgym.errors import ConfigError
from dreamgym.replay.index import connect
from tests.waiting import HANG_S

GOOD = {
    "choices": [{"message": {"role": "assistant", "content": "the door is open"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
}
WHOLE = json.dumps(GOOD).encode()
ODD = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
PATHS = [
    ["choices"],
    ["choices", 0],
    ["choices", 0, "message"],
    ["choices", 0, "message", "content"],
    ["choices", 0, "finish_reason"],
    ["usage"],
    ["usage", "prompt_tokens"],
    ["usage", "completion_tokens"],
]
BODIES = [
    *(
        b"[" * 90_000,
        b'{"choices":' * 9000,
        b'{"choices": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b"null",
        b"\xef\xbb\xbf{}",
    ),
    *(WHOLE.replace(b"7", number) for number in (b"-7", b"1e999", b"Infinity", b"NaN", b"7" * 5000, b"7.5", b'"7"')),
    *(WHOLE.replace(b"door", word) for word in (b"\\ud800", b"\\u0000", b"\xff", b"<script>")),
]


class Endpoint(ThreadingHTTPServer):
    """Answers a prompt with its reply: (status, headers, body)."""

    daemon_threads = True
    replies: dict[str, tuple[int, dict[str, str], bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, headers, body = self.server.replies[asked["messages"][-1]["content"]]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True, scope="module")
def _no_backoff() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "BACKOFF", wait_none())
        yield


def explain(endpoint: Endpoint, kept: Path, *replies: tuple[int, dict[str, str], bytes]) -> Answers:
    """What `ask` makes of one question a reply; asked again, all that was kept is there as it was."""
    config = TeacherConfig(base_url=endpoint.url, model="m", api_key_env="TEACHER_KEY", attempts=2, timeout_s=HANG_S)
    endpoint.replies = {f"why {n}?": reply for n, reply in enumerate(replies)} | {"sure?": (200, {}, WHOLE)}
    kept.unlink(missing_ok=True)
    asked = [Question(prompt, prompt) for prompt in endpoint.replies]
    first, again = (ask(config, asked, kept, lambda _: None) for _ in range(2))
    assert first.told == again.told
    assert again.prompt_tokens >= first.prompt_tokens >= 7
    return first


BODY = st.sampled_from(BODIES) | st.binary(max_size=60) | st.tuples(st.sampled_from(PATHS), JSON)


@settings(max_examples=12)
@given(bodies=st.lists(BODY, min_size=6, max_size=12))
def test_any_bodies(endpoint: Endpoint, tmp_path_factory: pytest.TempPathFactory, bodies: list[Any]) -> None:
    replies = [(200, {}, body if isinstance(body, bytes) else changed(*body)) for body in bodies]
    found = explain(endpoint, tmp_path_factory.getbasetemp() / "kept.jsonl", *replies)
    assert len(found.told) + found.left_out == len(bodies) + 1
    assert all(text == " ".join(text.split()) and text.encode() for text in found.told.values())


def changed(path: list[Any], value: Any) -> bytes:
    answer: Any = json.loads(WHOLE)
    target = answer
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({}, b" " * (MAX_ANSWER_BYTES + 1) + WHOLE, "more than 1048576 bytes"),
        ({"Content-Encoding": "gzip"}, gzip.compress(b" " * 10**8), "more than 1048576 bytes"),
        ({"Content-Encoding": "gzip"}, b"no gzip", "DecodingError"),
        ({"Content-Length": "-1"}, WHOLE, "Error"),
    ],
    ids=["long", "bomb", "no gzip", "length"],
)
def test_a_body_without_an_end_or_a_form_is_given_up(
    endpoint: Endpoint, tmp_path: Path, headers: dict[str, str], body: bytes, said: str
) -> None:
    assert said in explain(endpoint, tmp_path / "kept.jsonl", (200, headers, body)).fault


@pytest.mark.parametrize("wait", ["²", "9" * 400, "-1", "soon", ""])
def test_any_wish_to_wait(endpoint: Endpoint, tmp_path: Path, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "LONGEST_WAIT_S", 0.0)
    found = explain(endpoint, tmp_path / "kept.jsonl", (429, {"Retry-After": wait}, b""))
    assert found.fault == "HTTP 429"


@pytest.mark.parametrize(
    "key", ["sk-secret\nX: y", "sk secret", "sk-sécret", "sk-secret\x00"[:-1] + "\x7f", "s" * 20_000]
)
def test_a_key_that_no_header_can_carry_is_refused_untold(
    endpoint: Endpoint, tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", key)
    with pytest.raises(ConfigError, match="TEACHER_KEY: holds no key") as refused:
        explain(endpoint, tmp_path / "kept.jsonl")
    with pytest.raises(ConfigError):
        connect(QdrantConfig(url="http://127.0.0.1:1", api_key_env="TEACHER_KEY"), 1.0)
    assert key not in str(refused.value) and "secret" not in str(refused.value)


def test_a_mounted_file_holds_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    assert credential("TEACHER_KEY") == ""
    monkeypatch.setenv("TEACHER_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ConfigError, match=r"TEACHER_KEY_FILE: .* cannot be read"):
        credential("TEACHER_KEY")
    (tmp_path / "key").write_text("sk-mounted\n")
    assert credential("TEACHER_KEY") == "sk-mounted"
    monkeypatch.setenv("TEACHER_KEY", "sk-variable")
    assert credential("TEACHER_KEY") == "sk-variable"
