"""The HTTP of `POST /v1/chat/completions` and `GET /v1/models`, as OpenAI's clients speak it; it knows no model.

Requests come from outside: the key is checked before anything is read, a body has a limit and a deadline, and whatever
it holds is answered or refused with OpenAI's error object.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from dreamgym.config import SamplingConfig

MAX_BODY_BYTES = 2**20
MAX_MESSAGES = 1024
BODY_TIMEOUT_S = 30.0


class Message(BaseModel):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(BaseModel):
    """What of OpenAI's request is obeyed; the rest is ignored, but for what would need another form of answer."""

    model: str = ""
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**31)
    n: Literal[1] | None = None
    stream: Literal[False] | None = None

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
    created = int(time.time())

    async def models(request: Request) -> JSONResponse:
        if fault := _locked(request, key):
            return _refusal(fault)
        data = [{"id": model, "object": "model", "created": created, "owned_by": "dreamgym"}]
        return JSONResponse({"object": "list", "data": data})

    async def completions(request: Request) -> JSONResponse:
        body = _locked(request, key) or await _body(request)
        asked = body if isinstance(body, Fault) else read_request(body, model)
        answer = asked if isinstance(asked, Fault) else await complete(asked)
        return _refusal(answer) if isinstance(answer, Fault) else JSONResponse(_completion(model, answer))

    return Starlette(
        routes=[
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/chat/completions", completions, methods=["POST"]),
        ]
    )


def read_request(body: bytes, model: str) -> ChatRequest | Fault:
    """The request of a body for this model."""
    try:
        asked = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return Fault(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}"[:500])
    return asked if asked.model in ("", model) else Fault(404, f"The model is '{model}'.")


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
