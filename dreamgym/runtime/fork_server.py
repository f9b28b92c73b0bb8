"""Starts engines and learner workers of a local Ray by a fork, so that PyTorch and vLLM are imported once a run.

Each of these processes spends some 15 s of a core, and hundreds of MB, on imports. Here one process imports for
all; a worker of Ray is then a fork of it, which shares those pages. Ray starts its workers by a command
(`py_executable` of a runtime environment); ours is `fork_client.py`, which asks this server for the fork.
Only on Linux, only on CPUs, and only for a Ray that this process has started: elsewhere workers start as usual.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import logging
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, cast

from dreamgym.runtime.spared_imports import spare_imports

log = logging.getLogger(__name__)
CLIENT = Path(__file__).with_name("fork_client.py")
STREAMS = 3
"""Standard input, output and error of the client, which become those of its fork."""


class ForkServer:
    """The server of this process, and the options by which Ray starts a worker as its fork."""

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="dreamgym-fork-")  # nobody but this user may ask for a fork
        self._address = os.path.join(folder, "socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(self._address)
            except OSError:
                shutil.rmtree(folder)
                raise
            listener.listen(128)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listener.fileno()), folder],
                pass_fds=[listener.fileno()],
                stdin=subprocess.PIPE,  # its end is the sign to end
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def options(self, modules: tuple[str, ...]) -> dict[str, Any]:
        """Ray's options of an actor whose process is to have imported `modules` when it begins."""
        command = [sys.executable, "-IS", str(CLIENT), self._address, ",".join(modules)]
        return {"runtime_env": {"py_executable": shlex.join(command)}}

    def close(self) -> None:
        """End the server; forks that live on are Ray's to end."""
        cast(IO[bytes], self._process.stdin).close()
        self._process.wait()


_wanted = False
_server: ForkServer | None = None


def enable() -> None:
    """From now on `options` names a server; to be called by whoever has started a local Ray of CPUs alone."""
    global _wanted
    _wanted = sys.platform == "linux"


def options(*modules: str, gpus: float = 0) -> dict[str, Any]:
    """Ray's options of an actor that imports `modules`: a fork that has them; {} where none can be had.

    The server starts with the first call. It imports what it is asked for, and keeps it for the next.
    """
    global _server
    if not _wanted or gpus:
        return {}
    if _server is None:
        try:
            _server = ForkServer()
        except OSError as error:  # a folder for temporary files whose path is too long for a socket, for one
            log.warning("every engine and learner worker imports by itself: no fork server can start (%s)", error)
            close()
            return {}
    return _server.options(modules)


def close() -> None:
    """End the server, if there is one, and name none from now on."""
    global _wanted, _server
    _wanted = False
    if _server is not None:
        _server.close()
        _server = None


def serve(listener: socket.socket) -> str | None:
    """Fork for whoever asks, until standard input ends. Returns, in a fork alone, the program that it is to be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that this one serves
    spare_imports()
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        if fork := _answer(listener):
            listener.close()
            return _become(*fork)
    return None


def _answer(listener: socket.socket) -> tuple[dict[str, Any], list[int], dict[str, str]] | None:
    """Fork once, for the one who asks; returns, in the fork alone, what it needs to become what was asked for."""
    with contextlib.suppress(OSError, ValueError), listener.accept()[0] as asker:
        request, streams = _request(asker)
        added = _import(request["modules"])
        gc.freeze()  # what is here by now is not looked through, and so not copied, by the collectors of forks
        pid = os.fork()
        if pid == 0:
            os.dup(asker.fileno())  # stays open as long as the fork lives: the client waits for its end
            return request, streams, added
        for stream in streams:
            os.close(stream)
        asker.sendall(pid.to_bytes(8, "little"))
    return None


def _request(asker: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, ancillary, _, _ = asker.recvmsg(8, socket.CMSG_SPACE(STREAMS * array.array("i").itemsize))
    streams = array.array("i")
    for _, _, data in ancillary:
        streams.frombytes(data[: len(data) - len(data) % streams.itemsize])
    with asker.makefile("rb") as body:
        return json.loads(body.read(int.from_bytes(head, "little"))), list(streams)


def _import(modules: list[str]) -> dict[str, str]:
    """Import what can be had; returns the environment variables that imports have set since the server began.

    Not Ray: when it is imported (2.60), it reads from the environment which job its process works for.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # imports start processes of their own, whose end they ask for
    sys.modules["ray"] = None  # type: ignore[assignment]  # Python's own way to say: not there
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # the worker imports it again, and says what is wrong
                importlib.import_module(name)
    del sys.modules["ray"]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets forks that end from now on
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return {name: value for name, value in os.environ.items() if BEGINNING.get(name) != value}


def _become(request: dict[str, Any], streams: list[int], added: dict[str, str]) -> str:
    """Be, in a fork, the process that the client was to be: its streams, environment and folder; its program."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    environment = added | request["environment"]
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(request["folder"])
    threads = environment.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal():
        sys.modules["torch"].set_num_threads(int(threads))  # OpenMP has read the server's when it was loaded
    sys.argv = request["argv"]
    program = sys.argv[0]
    paths = [os.path.dirname(program), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*paths, *(path for path in sys.path[1:] if path not in paths)]
    return program


BEGINNING = dict(os.environ)

if __name__ == "__main__":
    program = serve(socket.socket(fileno=int(sys.argv[1])))
    if program is None:
        shutil.rmtree(sys.argv[2], ignore_errors=True)
    else:
        runpy.run_path(program, run_name="__main__")
