"""Which rewards an environment gives, with an end and without: read from the recorded data, and held against a dream.

An experience model that pays what no environment ever paid is exploited before it is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from dreamgym.schema import readable

MOST = 8
"""So many different rewards are each meant as they are; where more were seen, whatever lies between them may follow."""
_READ = ("reward", "done", "malformed")


@dataclass(frozen=True, slots=True)
class SeenOutcomes:
    """The different rewards of recorded steps, ascending and as a dream writes them."""

    going_on: tuple[float, ...]
    ending: tuple[float, ...]

    @classmethod
    def of(cls, outcomes: Iterable[tuple[float, bool]]) -> SeenOutcomes:
        """Those of (reward, done) pairs."""
        seen: dict[bool, set[float]] = {False: set(), True: set()}
        for reward, done in outcomes:
            seen[done].add(_written(reward))
        return cls(tuple(sorted(seen[False])), tuple(sorted(seen[True])))

    def refusal(self, reward: float, done: bool) -> str:
        """Why no step can come to that, in words; "" where one can."""
        seen, said = self.ending if done else self.going_on, _written(reward)
        if said in seen or (len(seen) > MOST and seen[0] <= said <= seen[-1]):
            return ""
        known = f"{seen[0]:g} to {seen[-1]:g}" if len(seen) > MOST else ", ".join(f"{r:g}" for r in seen) or "none"
        return f"reward={said:g} done={'yes' if done else 'no'} is in no recorded step; with that done there is {known}"


def read_outcomes(path: Path) -> SeenOutcomes | None:
    """The outcomes of recorded trajectories, from these columns of a Parquet file alone; None where there is no file.

    Answers that were no action are left out: their rewards are not the environment's.

    Raises:
        DataError: the file cannot be read.
    """
    if not path.exists():
        return None
    with readable(path):
        with pq.ParquetFile(path) as file:
            table = file.read(columns=[f"steps.list.element.{name}" for name in _READ])
        steps = pc.list_flatten(table["steps"])
        reward, done, malformed = (pc.struct_field(steps, name) for name in _READ)
        acted = pc.equal(malformed, "")
        pairs = zip(pc.filter(reward, acted).to_pylist(), pc.filter(done, acted).to_pylist(), strict=True)
        return SeenOutcomes.of(set(pairs))


def _written(reward: float) -> float:
    """A reward as it is read back from what `answer_parts` writes."""
    return float(f"{reward:g}")
