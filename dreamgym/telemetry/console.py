"""What a person sees while a stage runs: one console, and progress that reads well in a terminal and in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dreamgym.telemetry.clock import duration

console = Console(highlight=False)
LOG_SECONDS = 10.0


class Bar:
    """Progress of one piece of work; `advance` and `note` are cheap enough to call a thousand times a second."""

    def __init__(self, label: str, total: float | None, out: Console) -> None:
        self._label, self._total, self._out = label, total, out
        self._done, self._note = 0.0, ""
        self._first: tuple[float, float] | None = None
        """When work was first reported, and how much there was then."""
        self._begin = self._said = time.monotonic()
        self._live: Progress | None = None
        if out.is_terminal:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"),
                console=out,
                transient=True,
            )
            self._task = self._live.add_task(label, total=total, note="")

    def __enter__(self) -> Bar:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if kind is None:
            self._line()

    def advance(self, amount: float = 1, note: str | None = None) -> None:
        """`amount` more units are done; `note` is a few words on how it goes, such as 'loss 0.42'."""
        self.reach(self._done + amount, note)

    def reach(self, done: float, note: str | None = None) -> None:
        """`done` units in all are done; work that goes on from a checkpoint begins with some, or goes back."""
        self._done = done
        self._first = self._first or (time.monotonic(), done)
        self._note = self._note if note is None else note
        if self._live:
            self._live.update(self._task, completed=self._done, note=self._note)
        elif time.monotonic() - self._said >= LOG_SECONDS:
            self._line()

    def _line(self) -> None:
        self._said = time.monotonic()
        of = f"/{self._total:g}" if self._total is not None else ""
        note = f" · {self._note}" if self._note else ""
        spent = duration(self._said - self._begin)
        self._out.print(f"{self._label} {self._done:g}{of} · {spent}{self._left()}{note}", style="dim", markup=False)

    def _left(self) -> str:
        """How long the rest takes at the speed so far, in words; "" where that is not known."""
        if not self._total or self._first is None or not self._first[1] < self._done < self._total:
            return ""
        began, found = self._first
        pace = (self._said - began) / (self._done - found)
        return f" · {duration(pace * (self._total - self._done))} left"


def progress(label: str, total: float | None = None, out: Console | None = None) -> Bar:
    """A bar in a terminal; elsewhere one line every ten seconds and one at the end. Use it in `with`."""
    return Bar(label, total, out or console)


@contextmanager
def waiting(label: str, out: Console | None = None) -> Iterator[None]:
    """A spinner around work without a count, such as measuring; elsewhere one line as it begins and one at its end."""
    out = out or console
    begin = time.monotonic()
    if out.is_terminal:
        with out.status(label):
            yield
    else:
        out.print(f"{label} …", style="dim", markup=False)
        yield
    out.print(f"{label} · {duration(time.monotonic() - begin)}", style="dim", markup=False)


def shown(value: Any) -> str:
    """A number for people: 12,345 or 0.123; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
