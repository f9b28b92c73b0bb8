"""What every benchmark shares: the machine in words, and the file that its figures go to."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dreamgym.runtime.machine import machine

ROOT = Path(__file__).parents[1]


def record(path: Path, command: str, metrics: dict[str, Any] | None = None, **more: Any) -> None:
    """`write`, and print what was written."""
    write(path, command, metrics, **more)
    print(path.read_text(encoding="utf-8"))


def write(path: Path, command: str, metrics: dict[str, Any] | None = None, **more: Any) -> None:
    """Write {command, machine, date, metrics where there are some, …}."""
    today = datetime.now(UTC).date().isoformat()
    result = {"command": command, "machine": machine(), "date": today}
    result |= ({"metrics": metrics} if metrics is not None else {}) | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def merge(path: Path, command: str, metrics: dict[str, Any]) -> None:
    """Add metrics to those of a file, with command, machine and date of each under `measured`; print the file."""
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = {"command": command, "machine": machine(), "date": datetime.now(UTC).date().isoformat()}
    measured = before.get("measured", {}) | dict.fromkeys(metrics, now)
    result = {**now, "metrics": before.get("metrics", {}) | metrics, "measured": measured}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
