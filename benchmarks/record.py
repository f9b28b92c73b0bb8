"""What every benchmark shares: the machine in words, and the file that its figures go to."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]


def machine() -> str:
    """Processor, cores and memory."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gib = psutil.virtual_memory().total / 2**30
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {gib:.0f} GiB, no GPU"


def record(path: Path, command: str, metrics: dict[str, Any] | None = None, **more: Any) -> None:
    """Write {command, machine, date, metrics where there are some, …} and print it."""
    today = datetime.now(UTC).date().isoformat()
    result = {"command": command, "machine": machine(), "date": today}
    result |= ({"metrics": metrics} if metrics is not None else {}) | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))
