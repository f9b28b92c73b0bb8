"""The HTTP of a model that chats: who is let in, what is obeyed, and that any body at all gets an answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.commands.serve import serve
from dreamgym.config import RunConfig, SamplingConfig
from dreamgym.errors import ConfigError, DataError
from dreamgym.serve.chat_api import MAX_BODY_BYTES, ChatRequest, Completion, Fault, chat_app

KEY = "sk-chat-secret"
HEADERS = {"Authorization": f"Bearer {KEY}"}
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


async def echo(asked: ChatRequest) -> Completion | Fault:
    """Says what it was asked, or the fault that it was asked for."""
    said = asked.messages[-1].content
    return Fault(503, "down") if said == "fail" else Completion(said, "stop", 7, 4, len(said))


def ask(key: str = KEY, method: str = "POST", path: str = "/v1/chat/completions", **request: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(chat_app("m", key, echo))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **{"headers": HEADERS, **request})

    return asyncio.run(go())


def test_an_answer_has_openais_form() -> None:
    answer = ask(json={"model": "m", **HELLO, "user": "u", "frequency_penalty": 0.0})
    body = answer.json()
    assert answer.status_code == 200 and body.pop("id").startswith("chatcmpl-") and body.pop("created") > 10**9
    message = {"role": "assistant", "content": "hello"}
    tokens = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {**tokens, "prompt_tokens_details": {"cached_tokens": 4}},
    }
    assert [model["id"] for model in ask(method="GET", path="/v1/models").json()["data"]] == ["m"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "given", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}]
)
def test_nobody_is_let_in_without_the_key(path: str, given: dict[str, str]) -> None:
    answer = ask(method="GET" if path == "/v1/models" else "POST", path=path, headers=given, content=b"not even read")
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert KEY not in answer.text


def test_without_a_key_on_loopback_everybody_is_let_in() -> None:
    assert ask("", headers={}, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "other"}, 404),
        ({"n": 2}, 400),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
        ({"logprobs": True}, 400),
        ({"frequency_penalty": 0.5}, 400),
        ({"response_format": {"type": "json_object"}}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400),
        ({"temperature": -1}, 400),
        ({"top_p": 0}, 400),
        ({"max_tokens": 0}, 400),
        ({"seed": -1}, 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "root", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": "x"}] * 2000}, 400),
        ({"messages": [{"role": "user", "content": "fail"}]}, 503),
    ],
)
def test_what_cannot_be_obeyed_is_refused(change: dict[str, Any], status: int) -> None:
    answer = ask(json={**HELLO, **change})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_parts_of_text_are_one_text_and_neutral_settings_are_let_in() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    neutral = {"tools": [], "tool_choice": "none", "logprobs": False, "presence_penalty": 0, "user": "u"}
    answer = ask(json={"messages": [{"role": "user", "content": parts}], **neutral})
    assert answer.json()["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize(("stop", "text"), [("l", "he"), (["o", "el"], "h"), (["x", ""], "hello"), ([], "hello")])
def test_an_answer_ends_before_the_first_stop(stop: str | list[str], text: str) -> None:
    choice = ask(json={**HELLO, "stop": stop}).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")


def test_a_stream_is_the_same_answer_as_events() -> None:
    answer = ask(json={**HELLO, "stream": True, "stream_options": {"include_usage": True}})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, end = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    said, ended, took = map(json.loads, events)
    assert end == "[DONE]"
    assert {event["object"] for event in (said, ended, took)} == {"chat.completion.chunk"}
    assert said["choices"][0]["delta"] == {"role": "assistant", "content": "hello"}
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert took["choices"] == [] and took["usage"]["total_tokens"] == 12
    assert "usage" not in ask(json={**HELLO, "stream": True}).text


def test_one_model_is_described_and_what_is_not_there_is_an_error_object() -> None:
    assert ask(method="GET", path="/v1/models/m").json()["id"] == "m"
    for method, path, status in (("GET", "/v1/models/other", 404), ("POST", "/v1/completions", 404),
                                 ("GET", "/v1/chat/completions", 405)):  # fmt: skip
        answer = ask(method=method, path=path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
        assert ask(method=method, path=path, headers={}).status_code == 401


def test_the_request_goes_before_the_defaults() -> None:
    default = SamplingConfig(temperature=0.25, top_p=0.5, max_tokens=9)
    asked = ChatRequest.model_validate({**HELLO, "temperature": 0.0, "max_tokens": 5, "max_completion_tokens": 6})
    assert asked.sampling(default) == SamplingConfig(temperature=0.0, top_p=0.5, max_tokens=6)
    assert ChatRequest.model_validate(HELLO).sampling(default) == default


def test_a_body_without_an_end_is_not_read_to_it() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 2**16
            yield b" " * 2**16

    answer = ask(content=endless())
    assert answer.status_code == 413
    assert sent <= MAX_BODY_BYTES + 2**17


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just("<script>")
JSON = st.recursive(JUNK, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
FIELDS = [*ChatRequest.model_fields, "other"]
BODIES = [
    b"[" * 10**5,
    b'{"messages":' * 10**4,
    b"\xff",
    b"9" * 5000,
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
]


@settings(max_examples=200)
@given(
    st.binary(max_size=40)
    | st.sampled_from(BODIES)
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda change: json.dumps({**HELLO, **change}).encode())
)
def test_any_body_is_answered_or_refused(body: bytes) -> None:
    answer = ask(content=body)
    assert answer.status_code in (200, 400, 404)
    if answer.headers["content-type"].startswith("text/event-stream"):
        return
    said = answer.json()
    assert set(said) == {"error"} or "hello".startswith(said["choices"][0]["message"]["content"])


def config(tmp_path: Path, **fields: Any) -> RunConfig:
    (tmp_path / "run-seed0" / "policy").mkdir(parents=True)
    (tmp_path / "run-seed0" / "policy" / "config.json").write_text("{}")
    return RunConfig.model_validate({"out": str(tmp_path), "serve": fields})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_beyond_loopback_nothing_opens_without_a_key(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DREAMGYM_API_KEY", raising=False)
    with pytest.raises(
        ConfigError, match=r"serve.host: others can reach .* set a key in the variable DREAMGYM_API_KEY"
    ):
        serve(config(tmp_path, host=host))


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=r"serve.port: .* cannot be"):
        serve(config(tmp_path, port=taken.getsockname()[1]))


def test_without_a_model_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `dreamgym sft` first"):
        serve(config(tmp_path), "world")
