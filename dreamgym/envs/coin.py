"""Coin: find the coin somewhere in the house, and take it."""

from __future__ import annotations

from typing import Any, ClassVar

from dreamgym.envs.rooms import RoomGame, names
from dreamgym.envs.textworld import DIRECTIONS


class Coin(RoomGame):
    """One goal for all tasks; what differs is the house and where the coin lies."""

    game: ClassVar[str] = "coin"
    by_content: ClassVar[bool] = True
    defaults: ClassVar[dict[str, int]] = {
        "numLocations": 5,
        "numDistractorItems": 0,
        "includeDoors": 0,
        "limitInventorySize": 0,
    }

    def instruct(self, info: dict[str, Any]) -> str:
        return "find the coin and take it"

    def commands(self) -> list[str]:
        """Moves, and deeds with what is in sight, whether possible or not."""
        moves = [f"move {d}" for d in DIRECTIONS]
        doors = [f"open door to {d}" for d in DIRECTIONS]
        return sorted({"take coin", *moves, *doors, *(f"open {name}" for name in names(f"now {self._rest}"))})
