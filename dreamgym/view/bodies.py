"""Episodes whole, read when somebody opens one: its turns, what it can be laid beside, and its tokens."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dreamgym.schema import TRAJECTORY_SCHEMA, readable
from dreamgym.view.index import Signature, signature

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOLD = [name for name in TRAJECTORY_SCHEMA.names if name != "samples"]
KEPT = 3
"""Files whose episodes are kept at hand: a person goes from one episode to its neighbours."""
BESIDE = 64
"""Episodes of the same task that are looked at for the one to lay beside."""
TOKENIZERS = ("policy", "warm_start", "policy_real", "dpo", "world")


class Bodies:
    """Reads episodes by file and row; the last files stay in memory. Made to be asked by one thread at a time."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Path, tuple[Signature | None, pa.Table]] = OrderedDict()

    def episode(self, path: Path, row: int) -> dict[str, Any]:
        """One episode with its steps, without its tokens.

        Raises:
            DataError: the file cannot be read.
        """
        now = signature(path)
        if path not in self._tables or self._tables[path][0] != now:
            with readable(path):
                self._tables[path] = (now, pq.read_table(path, columns=TOLD, memory_map=True))
        self._tables.move_to_end(path)
        while len(self._tables) > KEPT:
            self._tables.popitem(last=False)
        found: dict[str, Any] = self._tables[path][1].slice(row, 1).to_pylist()[0]
        found["info"] = {key: finite(value) for key, value in found["info"]}
        for step in found["steps"]:
            step["reward"] = finite(step["reward"])
        return found


def finite(value: float) -> float | None:
    """A number as JSON has it: float32 without its noise; None where it is not finite."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def shared_actions(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> int:
    """How many first actions two episodes have in common."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a["action"] != b["action"]), min(len(one), len(other)))


def first_difference(dream: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Where two episodes of one task part, as `step` (from 0) and `what`; None where they never do.

    what: `begin` (the first states differ), `state` or `outcome` (the same action was answered differently), `action`
    (another action was taken) or `end` (one goes on, the other does not).
    """
    if dream and real and dream[0]["state"] != real[0]["state"]:
        return {"step": 0, "what": "begin"}
    for number, (a, b) in enumerate(zip(dream, real, strict=False)):
        if a["action"] != b["action"]:
            return {"step": number, "what": "action"}
        if a["next_state"] != b["next_state"]:
            return {"step": number, "what": "state"}
        if (a["reward"], a["done"]) != (b["reward"], b["done"]):
            return {"step": number, "what": "outcome"}
    return None if len(dream) == len(real) else {"step": min(len(dream), len(real)), "what": "end"}


def tokens(path: Path, row: int, run_dir: Path) -> list[dict[str, Any]]:
    """The samples of an episode: ids, their text where the run has a tokenizer, mask, logprobs and weight versions.

    Raises:
        DataError: the file cannot be read.
    """
    with readable(path):
        table = pq.read_table(path, columns=["samples"], memory_map=True)
    samples: list[dict[str, Any]] = table["samples"].slice(row, 1).to_pylist()[0]
    places = (run_dir / name / "tokenizer.json" for name in TOKENIZERS)
    place = next((path for path in places if path.is_file()), None)
    tokenizer = _tokenizer(place, signature(place)) if place and samples else None
    for sample in samples:
        sample["logprobs"] = [finite(value) for value in sample["logprobs"]]
        sample["texts"] = (
            [tokenizer.decode([token], skip_special_tokens=False) for token in sample["ids"]] if tokenizer else None
        )
    return samples


@lru_cache(maxsize=2)
def _tokenizer(path: Path, changed: Signature | None) -> Tokenizer:
    """The tokenizer of a file as it is now."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
