"""The HTTP of `/v1/chat/completions` and `/v1/models`, as OpenAI's clients speak it; it knows no model.

Requests come from outside: the key is checked before anything is read, a body has a limit and a deadline, and whatever
it holds is answered or refused with OpenAI's error object.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dreamgym.config import SamplingConfig

MAX_BODY_BYTES = 2**20
MAX_MESSAGES = 1024
BODY_TIMEOUT_S = 30.0


class Message(BaseModel):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Parts of text as one text; a part of another kind is refused."""
        if not isinstance(content, list):
            return content
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        parts = [text for text in texts if isinstance(text, str)]
        if len(parts) < len(content):
            raise ValueError("holds a part that is no text; this model reads text alone")
        return "".join(parts)


CHANGES_NOTHING = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields of OpenAI's request that no answer depends on; any other that is not obeyed is refused where it is set."""


class ChatRequest(BaseModel):
    """What of OpenAI's request is obeyed; what is not obeyed and would change the answer is refused."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**31)
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    stop: str | list[str] | None = None

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        """A field that would change the answer, and is not obeyed, must not be set."""
        for name, value in (self.model_extra or {}).items():
            if value and name not in CHANGES_NOTHING and not (name == "tool_choice" and value == "none"):
                raise ValueError(f"'{name}' is not supported; leave it out")
        return self

    @property
    def stops(self) -> list[str]:
        """Texts before which the answer ends."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    def sampling(self, default: SamplingConfig) -> SamplingConfig:
        """The default, with what the request gives in its place."""
        longest = self.max_completion_tokens or self.max_tokens
        given = {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": longest}
        return default.model_copy(update={name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer; lengths in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    written: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no answer, and the HTTP status that says so."""

    status: int
    message: str


Complete = Callable[[ChatRequest], Awaitable[Completion | Fault]]


def chat_app(model: str, key: str, complete: Complete) -> Starlette:
    """The endpoint of one model; an empty key lets everybody in.

    Args:
        model: its name, which a request may leave empty.
        complete: answers a request that is well formed.
    """
    described = {"id": model, "object": "model", "created": int(time.time()), "owned_by": "dreamgym"}

    async def models(request: Request) -> JSONResponse:
        if fault := _locked(request, key):
            return _refusal(fault)
        return JSONResponse({"object": "list", "data": [described]})

    async def one_model(request: Request) -> JSONResponse:
        if fault := _locked(request, key):
            return _refusal(fault)
        known = request.path_params["name"] == model
        return JSONResponse(described) if known else _refusal(Fault(404, f"The model is '{model}'."))

    async def nothing(request: Request, error: Exception) -> JSONResponse:
        status = getattr(error, "status_code", 404)
        return _refusal(
            _locked(request, key) or Fault(status, f"There is no {request.method} {request.url.path} here.")
        )

    async def completions(request: Request) -> Response:
        body = _locked(request, key) or await _body(request)
        asked = body if isinstance(body, Fault) else read_request(body, model)
        answer = asked if isinstance(asked, Fault) else await complete(asked)
        if isinstance(asked, Fault) or isinstance(answer, Fault):
            return _refusal(answer)  # type: ignore[arg-type]  # a fault of either kind is the answer
        answer = cut(answer, asked.stops)
        if asked.stream:
            usage = bool((asked.stream_options or {}).get("include_usage"))
            return Response(_events(model, answer, usage), media_type="text/event-stream")
        return JSONResponse(_completion(model, answer))

    return Starlette(
        exception_handlers={404: nothing, 405: nothing},
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{name:path}", one_model, methods=["GET"]),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ],
    )


def read_request(body: bytes, model: str) -> ChatRequest | Fault:
    """The request of a body for this model."""
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return Fault(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"[:500])
    return asked if asked.model in ("", model) else Fault(404, f"The model is '{model}'.")


def cut(answer: Completion, stops: Sequence[str]) -> Completion:
    """The answer up to the first text of `stops` in it."""
    ends = [at for stop in stops if stop and (at := answer.text.find(stop)) >= 0]
    return replace(answer, text=answer.text[: min(ends)], finish_reason="stop") if ends else answer


def _locked(request: Request, key: str) -> Fault | None:
    """The refusal of a request that does not bring the key."""
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    known = kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())
    return None if known or not key else Fault(401, "The API key is missing or wrong.")


async def _body(request: Request) -> bytes | Fault:
    """The whole body, where it is neither endless nor slow."""
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                read += chunk
                if len(read) > MAX_BODY_BYTES:
                    return Fault(413, f"The body has more than {MAX_BODY_BYTES} bytes.")
    except (TimeoutError, ClientDisconnect):
        return Fault(408, f"The body did not come within {BODY_TIMEOUT_S:g} s.")
    return bytes(read)


def _refusal(fault: Fault) -> JSONResponse:
    kind = {401: "authentication_error", 503: "server_error"}.get(fault.status, "invalid_request_error")
    error = {"message": fault.message, "type": kind, "param": None, "code": None}
    headers = {"WWW-Authenticate": "Bearer"} if fault.status == 401 else {}
    return JSONResponse({"error": error}, fault.status, headers | {"Connection": "close"})


def _events(model: str, answer: Completion, usage: bool) -> str:
    """An answer as server-sent events: who speaks and the whole text, why it ended, and what it took if asked for."""
    whole = _completion(model, answer)
    head = {**{name: whole[name] for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}
    said = {"index": 0, "delta": {"role": "assistant", "content": answer.text}, "finish_reason": None}
    ended = {"index": 0, "delta": {}, "finish_reason": answer.finish_reason}
    chunks = [{**head, "choices": [said]}, {**head, "choices": [ended]}]
    if usage:
        chunks.append({**head, "choices": [], "usage": whole["usage"]})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def _completion(model: str, answer: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.written,
            "total_tokens": answer.prompt_tokens + answer.written,
            "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
        },
    }
