"""A workload, not a game: episodes of 1 to 12 turns, most of them short, as tool-using agents have them."""

from __future__ import annotations

import random
from typing import Any

from compare import WORDS

from dreamgym.types import Fold, Task

TURNS = (1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 12)


class Skewed:
    """Task k lasts `TURNS[k % 12]` turns whatever is done; the reward is a coin toss over what was written."""

    def __init__(self) -> None:
        self._left = 0
        self._written: list[str] = []

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        return [Task(f"{fold}-{k}", "skewed", f"task {k} of {WORDS[k % 12]}", str(k)) for k in range(count)]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        self._left, self._written = TURNS[int(task.payload) % len(TURNS)], [task.id]
        return self._line(), {"success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._left -= 1
        self._written.append(action)
        over = self._left == 0
        won = over and random.Random("|".join(self._written)).random() < 0.5
        return self._line(), float(won), over, False, {"success": won, "valid": True}

    def close(self) -> None:
        """Nothing to free."""

    def _line(self) -> str:
        rng = random.Random("|".join(self._written))
        return "sees " + " ".join(rng.choices(WORDS, k=12))
