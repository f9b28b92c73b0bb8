"""The addresses at which the page plays the dream: tasks to choose from, steps to dream, verdicts to write down.

A request names the whole episode (task, draw, actions), so that nothing is kept for a page, and a step back is a
shorter list. What was dreamed before is not dreamed again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from dreamgym.data.judged import Verdict
from dreamgym.errors import DataError, DreamgymError
from dreamgym.types import MAX_REWARD, MAX_TEXT
from dreamgym.view.bodies import finite, first_difference

if TYPE_CHECKING:
    from dreamgym.play.player import Played, Player

LISTED = 50
MAX_ACTIONS = 1000
MAX_BODY_BYTES = 4 * 2**20
_OF_DEMO = ("state", "action", "next_state", "reward", "done", "world")
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Reply = Callable[[Any, int], Response]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Episode(_Asked):
    """An episode; the last action is the one that is new."""

    task: Text
    draw: int = Field(0, ge=0, lt=2**31)
    actions: list[Text] = Field(max_length=MAX_ACTIONS)
    beside: bool = False


class SaidRight(_Asked):
    """What a person says would have been right."""

    next_state: Text
    reward: float = Field(0.0, ge=-MAX_REWARD, le=MAX_REWARD, allow_inf_nan=False)
    done: bool = False
    reasoning: Text = ""


class Judgement(Episode):
    """What a person says of the last step of an episode."""

    judged: Verdict
    right: SaidRight | None = None


def play_routes(player: Player, reply: Reply) -> list[Route]:
    """The addresses of a player; `reply` makes an answer of a value and a status."""

    async def tasks(request: Request) -> Response:
        return reply(listed(player, request.query_params.get("text", "")), 200)

    async def play(asked: Episode) -> dict[str, Any]:
        actions = [player.action(action) for action in asked.actions]
        return told(player, await player.play(asked.task, asked.draw, actions, asked.beside))

    async def judge(asked: Judgement) -> dict[str, Any]:
        from dreamgym.play.player import Right

        right = Right(**asked.right.model_dump()) if asked.right else None
        actions = [player.action(action) for action in asked.actions]
        step = await player.judge(asked.task, asked.draw, actions, asked.judged, right, asked.beside)
        return {"judged": step.judged, "truth": step.truth is not None, "truth_by": step.truth_by}

    return [
        Route("/api/play/tasks", tasks),
        Route("/api/play", partial(_answer, Episode, play, reply), methods=["POST"]),
        Route("/api/play/judge", partial(_answer, Judgement, judge, reply), methods=["POST"]),
    ]


def listed(player: Player, text: str) -> dict[str, Any]:
    """The first tasks with a text in their id or instruction, how many there are, and whose dream it is."""
    wanted = text.casefold()
    found = [
        {"id": task_id, "instruction": known.task.instruction, "fold": known.fold, "origin": known.task.origin}
        for task_id, known in player.tasks.items()
        if wanted in task_id.casefold() or wanted in known.task.instruction.casefold()
    ]
    counts = {"matching": len(found), "total": len(player.tasks)}
    return {"tasks": found[:LISTED], **counts, "model": player.model, "file": str(player.file)}


def told(player: Player, played: Played) -> dict[str, Any]:
    """An episode as the page shows it."""
    task = played.task.task
    turns = [
        {
            **_step(turn.step),
            "error": turn.error,
            "overruled": turn.overruled,
            "judged": turn.judged,
            "shown": [{name: getattr(d, name) for name in _OF_DEMO} | {"score": finite(d.score)} for d in turn.shown],
        }
        for turn in played.turns
    ]
    beside = None
    if played.beside is not None:
        steps = [_step(step) for step in played.beside.steps]
        beside = {"first_state": played.beside.first_state, "steps": steps, "error": played.beside.error}
    return {
        "task": {name: getattr(task, name) for name in ("id", "instruction", "first_state", "origin")},
        "fold": played.task.fold,
        "draw": played.draw,
        "actions": played.actions,
        "turns": turns,
        "over": played.over,
        "max_steps": player.config.env.max_steps,
        "beside": beside,
        "difference": parted(played),
    }


def parted(played: Played) -> dict[str, Any] | None:
    """Where dream and real environment part, as `first_difference` tells it; None where no difference is known."""
    side = played.beside
    if side is None or side.error:
        return None
    if side.first_state != played.task.task.first_state:
        return {"step": 0, "what": "begin"}
    dream = [_step(step) for step in played.steps]
    real = [_step(step) for step in side.steps]
    # Where the dream gave no answer the real environment is one ahead.
    return first_difference(dream, real[: len(dream)])


def _step(step: Any) -> dict[str, Any]:
    return {**asdict(step), "reward": finite(step.reward)}


async def _answer(
    kind: type[_Asked], answer: Callable[[Any], Awaitable[dict[str, Any]]], reply: Reply, request: Request
) -> Response:
    """The answer to a body of JSON; what a user can mend is a sentence under `error`."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return reply({"error": "send JSON, and say so in the content type."}, 415)
    try:
        return reply(await answer(kind.model_validate_json(await _body(request))), 200)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        return reply({"error": f"{where[:200]}: {first['msg'][:300]}."}, 400)
    except DreamgymError as error:
        return reply({"error": str(error)}, 404 if isinstance(error, DataError) else 400)


async def _body(request: Request) -> bytes:
    """The whole body, where it is not endless."""
    read = bytearray()
    try:
        async for chunk in request.stream():
            read += chunk
            if len(read) > MAX_BODY_BYTES:
                raise DataError(f"the request has more than {MAX_BODY_BYTES:,} bytes; play a shorter episode.")
    except ClientDisconnect:
        raise DataError("the request was cut off.") from None
    return bytes(read)
