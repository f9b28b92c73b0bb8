"""The command `view`: a local page on runs, live while they go on, until a signal ends it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import uvicorn

from dreamgym.config import RunConfig
from dreamgym.runtime.address import is_loopback, listen
from dreamgym.telemetry.console import console
from dreamgym.view.app import view_app
from dreamgym.view.viewed import find_runs

FAREWELL_S = 1


def view(
    config: RunConfig, runs: Sequence[Path] = (), host: str = "127.0.0.1", port: int = 0, no_open: bool = False
) -> None:
    """Show the page of some runs, by default of all below `out`; nothing in their folders is changed.

    Args:
        runs: folders of runs, or folders of such folders.
        host: the address to listen at; whoever comes from elsewhere than this machine must bring a token.
        port: 0 takes a free one.
        no_open: does not open a browser.

    Raises:
        ConfigError: there is no run, or the address cannot be had.
    """
    shown = find_runs(runs, config.run_dir.parent)
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    app = view_app(shown, token)
    with closing(listen(host, port, "--port")) as place:
        url = _address(host, place.getsockname()[1]) + (f"?token={token}" if token else "")
        told = shown[0].key if len(shown) == 1 else f"{len(shown)} runs"
        console.print(f"[green]✓[/] {told} at [bold]{url}[/]; Ctrl-C ends it", soft_wrap=True, highlight=False)
        if not no_open and _has_screen():
            webbrowser.open(url)
        settings = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=FAREWELL_S)
        try:
            uvicorn.Server(settings).run([place])
        except KeyboardInterrupt:  # the signal that ended it, which uvicorn raises once more
            console.print("the page is closed")


def _address(host: str, port: int) -> str:
    named = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://{f'[{named}]' if ':' in named else named}:{port}/"


def _has_screen() -> bool:
    """Whether a browser would open where the person sits, and not in the terminal or nowhere."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
