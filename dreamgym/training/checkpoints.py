"""The checkpoints of a trainer's folder: which there are, and what each says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first; one that was not written to its end has another name."""
    return sorted((folder / "checkpoints").glob("iteration-?????"))


def newest_world(folder: Path) -> Path | None:
    """The refreshed experience model that a trainer's newest checkpoint dreamed with; None where it was the first."""
    found = checkpoints(folder)
    name = str(state_of(found[-1])["world"]) if found else ""
    return folder / name if name.startswith("world-") else None


def state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state
