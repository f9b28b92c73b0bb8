"""Notes which settings every process of a run reads, and in which stage; Python imports this first, by PYTHONPATH.

`DREAMGYM_TEST_READS` is `NOTES:RUN_DIR`: a file a process in the folder NOTES, a line `stage field` for each.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

NOTES, _, RUN_DIR = os.environ.get("DREAMGYM_TEST_READS", "").partition(":")
NOT_USED = ("dreamgym.config", "dreamgym.runs.fingerprint", "dreamgym.planning", "pydantic", "dreamgym.runtime.cluster")
"""Modules that look at settings to check, compare, foretell or fill them in, and not to do something by them."""


class Notes:
    """What this process has read so far."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.looked, self.stage = 0.0, ""

    def add(self, field: str) -> None:
        now = time.monotonic()
        if now - self.looked > 0.05:
            begun = sorted(Path(RUN_DIR, "stages").glob("*.partial.json"))
            self.looked, self.stage = now, begun[0].name.partition(".")[0] if begun else ""
        if self.stage and (self.stage, field) not in self.seen:
            self.seen.add((self.stage, field))
            with Path(NOTES, str(os.getpid())).open("a") as file:
                file.write(f"{self.stage} {field}\n")


def watch(config: Any) -> None:
    """Note every read of a field; a section knows its own name from the section that it was read from."""
    notes = Notes()
    section = config.Section
    copy = section.model_copy

    def read(self: Any, name: str) -> Any:
        value = object.__getattribute__(self, name)
        kind = type(self)
        if name.startswith("_") or name not in kind.__pydantic_fields__:
            return value
        state = object.__getattribute__(self, "__dict__")
        where = state.get("_name", "" if kind.__name__ == "RunConfig" else None)
        if where is None or name in state.get("_made", ()):
            return value
        field = f"{where}.{name}".lstrip(".")
        if isinstance(value, section):
            object.__getattribute__(value, "__dict__")["_name"] = field
        elif not str(sys._getframe(1).f_globals.get("__name__", "")).startswith(NOT_USED):
            notes.add(field)
        return value

    def model_copy(self: Any, *, update: Any = None, deep: bool = False) -> Any:
        """What a copy is given in place of its own is not read from the configuration."""
        made = copy(self, update=update, deep=deep)
        plain = {name for name, value in (update or {}).items() if not isinstance(value, section)}
        state = object.__getattribute__(made, "__dict__")
        state["_made"] = {*state.get("_made", ()), *plain}
        return made

    section.__getattribute__ = read
    section.model_copy = model_copy


class Finder(importlib.abc.MetaPathFinder):
    """Watches `dreamgym.config` as soon as it is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "dreamgym.config":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        loader, run = spec.loader, spec.loader.exec_module

        def exec_module(module: Any) -> None:
            run(module)
            watch(module)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if NOTES:
    sys.meta_path.insert(0, Finder())
