"""A browser as seen from the process that plays: it is asked, has a deadline, and is ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import psutil

from dreamgym.envs.web.browser import Settings

log = logging.getLogger(__name__)
KILLED_S = 10.0
"""Seconds that killed processes may take to be gone."""


class BrowserFault(Exception):
    """The browser crashed, failed or did not answer; what it was doing is no experience."""


class BrowserClient:
    """One browser in a process of its own, started with the first request, and anew after a fault."""

    def __init__(
        self, settings: Settings, deadline_s: float, python: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """`deadline_s`: seconds a request may take; `python`, `environment`: the process's, by default our own."""
        self._settings = settings
        self._deadline = deadline_s
        self._python = python or sys.executable
        self._environment = os.environ if environment is None else environment
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._told: Any = None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request; see `Player` for what there is to ask.

        Raises:
            BrowserFault: there is none; the browser has been ended.
        """
        process = self._process or self._start()
        try:
            cast(Any, process.stdin).write(json.dumps({"do": do} | request).encode() + b"\n")
            cast(Any, process.stdin).flush()
            answer: dict[str, Any] = json.loads(self._line(process))
        except (OSError, ValueError) as error:
            said = self._end()
            said = f"; it said: {said}" if said else ""
            raise BrowserFault(f"the browser's process gave no answer to {do} ({error}{said}).") from error
        if fault := answer.get("fault"):
            self._end()
            raise BrowserFault(f"the browser failed at {do}: {fault}")
        return answer

    def close(self) -> None:
        """End the browser."""
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._folder = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [self._python, "-m", "dreamgym.envs.web.browser", json.dumps(asdict(self._settings))],
            env={**self._environment, "TMPDIR": self._folder.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            start_new_session=True,
        )
        return self._process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes:
        """A line of the process's output; ValueError where none comes in time, or its output ends."""
        deadline = time.monotonic() + self._deadline
        read = b""
        out = cast(Any, process.stdout).fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not read.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ValueError(f"none within {self._deadline:g} s")
                part = os.read(out, 1 << 16)
                if not part:
                    raise ValueError(f"it ended with {process.wait()}")
                read += part
        return read

    def _end(self) -> str:
        """End the process and all it has started; returns the last line that it has said."""
        process, self._process = self._process, None
        if process is None:
            return ""
        folder = cast(Any, self._folder)
        family = _started_with(folder.name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _end_all(family)
        for pipe in (process.stdin, process.stdout):
            cast(Any, pipe).close()
        folder.cleanup()
        self._told.seek(0)
        lines = self._told.read().decode(errors="replace").strip().splitlines()
        self._told.close()
        return lines[-1] if lines else ""


def _started_with(folder: str) -> list[psutil.Process]:
    """The processes with this folder for temporary files, and theirs: a browser leads a group of its own."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == folder:
                found += [process, *process.children(recursive=True)]
    return found


def _end_all(family: Sequence[psutil.Process]) -> None:
    """Kill processes, and wait until none writes any more; one that nobody has reaped does not."""
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + KILLED_S
    while time.monotonic() < deadline and any(map(_runs, family)):
        time.sleep(0.01)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
