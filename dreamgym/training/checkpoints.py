"""The checkpoints of a trainer's folder: which there are, and what each says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def checkpoints(folder: Path) -> list[Path]:
    """Oldest first; one that was not written to its end has another name."""
    return sorted((folder / "checkpoints").glob("iteration-?????"))


def newest_world(folder: Path, after: Path | None = None) -> Path | None:
    """The refreshed experience model that a trainer's newest checkpoint dreamed with; None where it was the first.

    Args:
        after: the folder of the trainer that this one goes on from; until a model of its own takes over, it dreams
            with the last one there.
    """
    found = checkpoints(folder)
    name = str(state_of(found[-1])["world"]) if found else ""
    before = newest_world(after) if after is not None else None
    if before is not None and name in ("", before.name):
        return before
    return folder / name if name.startswith("world-") else None


def state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return state
