"""A real environment that dies under way: in the third step of the second game that one instance plays."""

from __future__ import annotations

from typing import Any

from examples.keyhouse import KeyHouse


class Brittle(KeyHouse):
    """A key house on a server that ends with its second game."""

    def __init__(self) -> None:
        super().__init__()
        self._games = self._taken = 0

    def reset(self, task: Any) -> Any:
        self._games += 1
        self._taken = 0
        return super().reset(task)

    def step(self, action: str) -> Any:
        self._taken += 1
        if (self._games, self._taken) == (2, 3):
            raise RuntimeError("the game server died")
        return super().step(action)
