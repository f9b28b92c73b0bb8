"""The addresses of the live page: its files, and what it asks for, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dreamgym.errors import DataError, DreamgymError
from dreamgym.report.rundata import RunData
from dreamgym.view import query
from dreamgym.view.compare import compare
from dreamgym.view.guard import Guard
from dreamgym.view.overview import overview
from dreamgym.view.play import play_routes
from dreamgym.view.tasks import invented
from dreamgym.view.viewed import ViewedRun, known_run

if TYPE_CHECKING:
    from dreamgym.play.player import Player

STATIC = Path(__file__).parent / "static"
Endpoint = Callable[[Request], Response]


def view_app(runs: Sequence[ViewedRun], token: str = "", player: Player | None = None) -> Starlette:
    """The page on some runs; with a token it is for those who bring it, without one for this machine alone.

    With a player the dream of its run can be played on the page.
    """
    shown = {run.key: run for run in runs}

    def of_run(answer: Callable[[ViewedRun, Request], Any]) -> Endpoint:
        return _told(lambda request: answer(known_run(shown, request.path_params["run"]), request))

    routes = [
        Route("/", _home),
        Route("/api/runs", _told(lambda _: [_listed(run, player) for run in shown.values()])),
        Route("/api/compare", _told(lambda request: compare(_asked(shown, request)))),
        Route(
            "/api/runs/{run}/pulse", of_run(lambda run, _: {"version": run.version(), "state": run.activity().state})
        ),
        Route("/api/runs/{run}/overview", of_run(lambda run, _: overview(run))),
        Route("/api/runs/{run}/tasks", of_run(lambda run, _: invented(run))),
        Route("/api/runs/{run}/buffer", of_run(lambda run, _: run.buffer())),
        Route("/api/runs/{run}/buffer/map", of_run(lambda run, _: run.buffer_map())),
        Route("/api/runs/{run}/buffer/search", of_run(_retrieved)),
        Route("/api/runs/{run}/episodes", of_run(lambda run, asked: run.page(query.parse(asked.query_params)))),
        Route("/api/runs/{run}/episodes/{id}", of_run(lambda run, asked: run.episode(asked.path_params["id"]))),
        Route("/api/runs/{run}/episodes/{id}/tokens", of_run(lambda run, asked: run.tokens(asked.path_params["id"]))),
        *(play_routes(player, _json) if player else []),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)])


def _retrieved(run: ViewedRun, asked: Request) -> Any:
    return run.retrieved(asked.query_params.get("state", ""), asked.query_params.get("action", ""))


def _home(_: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def _told(answer: Callable[[Request], Any]) -> Endpoint:
    """An answer as JSON; what a user can mend is a sentence under `error`. Runs in a thread, for it reads files."""

    def endpoint(request: Request) -> Response:
        try:
            return _json(answer(request), 200)
        except DreamgymError as error:
            return _json({"error": str(error)}, 404 if isinstance(error, DataError) else 400)

    return endpoint


def _json(value: Any, status: int) -> Response:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, media_type="application/json")


def _listed(run: ViewedRun, player: Player | None) -> dict[str, Any]:
    """A run among the others."""
    data: RunData = run.data()
    iterations = data.of("iteration")
    return {
        "key": run.key,
        "folder": str(run.run_dir),
        "environment": data.settings["env"]["name"],
        "state": run.activity().state,
        "play": player is not None and player.config.run_dir == run.run_dir,
        "iteration": iterations[-1]["iteration"] if iterations else None,
        "real": data.last("real/success"),
        "dream": data.last("dream/success"),
    }


def _asked(shown: dict[str, ViewedRun], request: Request) -> list[ViewedRun]:
    keys = request.query_params.getlist("run")
    if len(set(keys)) < 2:
        raise DataError("a comparison needs two runs at least; choose another one.")
    return [known_run(shown, key) for key in dict.fromkeys(keys)]
