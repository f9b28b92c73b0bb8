"""Where the time went: wall time by named parts, and durations in words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.table import Table


class Clock:
    """Attributes wall time to named parts; a part inside another is taken out of the outer one.

    `with clock("rollout"): ...`; for one thread. The time of no part is `other`.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._begin = now()
        self._mark = self._begin
        self._stack: list[str] = []
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._charge()
        self._stack.append(part)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def go_on(self, parts: Mapping[str, float]) -> None:
        """Count from the `parts()` of an earlier clock on."""
        self._begin -= sum(parts.values())
        self._seconds = {part: seconds for part, seconds in parts.items() if part != "other"}

    def _charge(self) -> None:
        now = self._now()
        if self._stack:
            part = self._stack[-1]
            self._seconds[part] = self._seconds.get(part, 0.0) + now - self._mark
        self._mark = now

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return self._now() - self._begin

    def parts(self) -> dict[str, float]:
        """Seconds of each part, the largest first, and what is left as `other`; they add up to `total`."""
        self._charge()
        rest = self.total - sum(self._seconds.values())
        return dict(sorted(self._seconds.items(), key=lambda kv: -kv[1])) | {"other": max(rest, 0.0)}

    def table(self, title: str = "wall time") -> Table:
        """Share of the wall time that each part takes."""
        return time_table(self.parts(), title)


def time_table(parts: Mapping[str, float], title: str = "wall time") -> Table:
    """Seconds a part as a table with shares and a total."""
    total = sum(parts.values())
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    for part, seconds in parts.items():
        share = seconds / total if total else 0.0
        table.add_row(part, duration(seconds), f"{share:.0%}", f"[cyan]{'━' * round(30 * share)}[/]")
    table.add_row("[bold]total[/]", f"[bold]{duration(total)}[/]", "", "")
    return table


def duration(seconds: float) -> str:
    """Seconds for people: 0.4 s, 12.3 s, 3 min 05 s, 1 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
