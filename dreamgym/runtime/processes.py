"""The processes of a run, children of children included: how much memory they take, and that none stays behind."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import psutil

from dreamgym.runtime import fork_server

GIB = 2**30
GRACE_S = 3.0
SHUTDOWN_S = 20.0


class Stopped(KeyboardInterrupt):
    """A signal asks the run to end; `code` is the exit status the shell expects of it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def memory_of(process: psutil.Process) -> int:
    """Bytes: PSS from smaps_rollup, which divides shared pages among their users; else the resident set."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


class ProcessTree:
    """This process and all it ever started, seen from time to time, so that orphans are still known."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._seen: set[psutil.Process] = set()
        self._lock = threading.Lock()

    def refresh(self) -> list[psutil.Process]:
        """The live descendants, also of processes that have died in between."""
        with self._lock:
            found = set(self._root.children(recursive=True))
            for orphan in [p for p in self._seen - found if p.is_running()]:
                found.add(orphan)
                found.update(_children(orphan))
            self._seen = found
            return list(found)

    def memory(self) -> int:
        """Bytes of this process and its descendants: PSS where the kernel tells it, else resident memory."""
        return sum(map(memory_of, [self._root, *self.refresh()]))

    def end(self) -> None:
        """End every descendant: SIGTERM, three seconds, SIGKILL."""
        alive = self.refresh()
        for process in alive:
            _send(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(alive, timeout=GRACE_S)
        for process in {*alive, *self.refresh()}:
            _send(process, signal.SIGKILL)
        psutil.wait_procs(self.refresh(), timeout=GRACE_S)


TREE = ProcessTree()


class PeakMemory:
    """Samples the memory of `TREE` in a thread, for at most 2% of one core, and keeps the peak."""

    def __init__(self, every_s: float = 2.0) -> None:
        self._every = every_s
        self._peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    @property
    def peak_gib(self) -> float:
        """The largest sum seen so far, in GiB."""
        return self._peak / GIB

    def _sample(self) -> float:
        begin = time.perf_counter()
        self._peak = max(self._peak, TREE.memory())
        return time.perf_counter() - begin

    def _run(self) -> None:
        cost = self._sample()
        while not self._stop.wait(max(self._every, 50 * cost)):
            cost = self._sample()


@contextmanager
def no_process_left() -> Iterator[None]:
    """Whatever happens inside, a local Ray and every child process are gone afterwards.

    SIGTERM and SIGHUP are raised inside as `Stopped`, so that they end as tidily as Ctrl-C.
    """
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if handlers[number] == signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        with _no_abort():
            yield
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(0)
        _clean_up()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _no_abort() -> Iterator[None]:
    """Take back the alarm by which Ray's handler of SIGTERM aborts the process three seconds later.

    The main thread may be in a call of Ray's for longer than that, so a thread of its own hears of the signal.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(heard,), name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()
        listener.join()
        heard.close()


def _listen(heard: socket.socket) -> None:
    while received := heard.recv(1):
        if received[0] == signal.SIGTERM:
            signal.alarm(0)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _clean_up() -> None:
    """Shut Ray down in order; where it hangs, end its processes so that it cannot."""
    TREE.refresh()
    watchdog = threading.Timer(SHUTDOWN_S, TREE.end)
    watchdog.daemon = True
    watchdog.start()
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        # Threads of Serve go on telling and asking its controller; that it is gone is no news.
        for name in ("asyncio", "ray.serve"):
            logging.getLogger(name).disabled = True
        ray.shutdown()
    fork_server.close()
    watchdog.cancel()
    TREE.end()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        return
