"""The command `view`: a local page on runs, live while they go on, until a signal ends it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from asyncio import Runner
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_run
from dreamgym.errors import ConfigError
from dreamgym.runtime.address import is_loopback, listen
from dreamgym.telemetry.console import console
from dreamgym.view.app import view_app
from dreamgym.view.viewed import find_runs

if TYPE_CHECKING:
    from dreamgym.play.player import Player

FAREWELL_S = 1


def view(
    config: RunConfig,
    runs: Sequence[Path] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    no_open: bool = False,
    play: bool = False,
) -> None:
    """Show the page of some runs, by default of all below `out`; nothing in their folders is changed.

    With `play` the dream of the one run can be played there; what is judged is written into its folder.

    Args:
        runs: folders of runs, or folders of such folders.
        host: the address to listen at; whoever comes from elsewhere than this machine must bring a token.
        port: 0 takes a free one.
        no_open: does not open a browser.

    Raises:
        ConfigError: there is no run, the address cannot be had, or there is more than one run to play.
        DataError: the run to play has no experience model yet.
        ModelError: its experience model cannot be loaded.
    """
    shown = find_runs(runs, config.run_dir.parent)
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    if play and len(shown) > 1:
        raise ConfigError(f"--play: there are {len(shown)} runs; name the one whose dream is to be played.")
    with closing(listen(host, port, "--port")) as place, ExitStack() as playing:
        url = _address(host, place.getsockname()[1]) + (f"?token={token}" if token else "")
        runner, player = playing.enter_context(_playing(shown[0].run_dir) if play else _looking())
        settings = uvicorn.Config(
            view_app(shown, token, player), log_level="warning", lifespan="off", timeout_graceful_shutdown=FAREWELL_S
        )
        told = shown[0].key if len(shown) == 1 else f"{len(shown)} runs"
        console.print(f"[green]✓[/] {told} at [bold]{url}[/]; Ctrl-C ends it", soft_wrap=True, highlight=False)
        if not no_open and _has_screen():
            webbrowser.open(url)
        try:
            runner.run(uvicorn.Server(settings).serve([place]))
        except KeyboardInterrupt:  # the signal that ended it, which uvicorn raises once more
            console.print("the page is closed")


@contextmanager
def _looking() -> Iterator[tuple[Runner, None]]:
    with Runner() as runner:
        yield runner, None


@contextmanager
def _playing(run_dir: Path) -> Iterator[tuple[Runner, Player]]:
    """The dream of a run, on the loop that serves the page: an engine answers on the loop that it was started on."""
    from dreamgym.commands.play import playing  # with vLLM, which whoever only looks does not need

    with playing(load_run(run_dir)) as found:
        yield found


def _address(host: str, port: int) -> str:
    named = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{named}]' if ':' in named else named}:{port}/"


def _has_screen() -> bool:
    """Whether a browser would open where the person sits, and not in the terminal or nowhere."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
