"""CookingWorld: gather the ingredients of a recipe, cut and cook them as it says, prepare the meal and eat it."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from dreamgym.envs.rooms import RoomGame, names, plain
from dreamgym.envs.textworld import DIRECTIONS

_CUTS = ("slice", "dice", "chop")
_HEAT = ("stove", "oven", "barbeque", "toaster")
_RECIPE = re.compile(r"Ingredients:\s*(.+?)\s*Directions:\s*(.+)", re.S)


class CookingWorld(RoomGame):
    """The goal holds the recipe, which the game keeps in the cookbook of the kitchen, so that tasks differ in words.

    An agent need not read the cookbook, therefore, and the expert does not. Spoiling an ingredient (eaten, cut or
    cooked against the recipe) ends the task as `failed`.
    """

    game: ClassVar[str] = "cookingworld"
    defaults: ClassVar[dict[str, int]] = {
        "numLocations": 1,
        "numIngredients": 2,
        "numDistractorItems": 2,
        "includeDoors": 0,
        "limitInventorySize": 0,
    }

    def commands(self) -> list[str]:
        """Every deed with every thing in sight, most of them not possible."""
        found = names(f"now {self._rest}")
        items = [plain(name) for name, where in found.items() if where == "held" or where.startswith("in ")]
        places = [name for name in found if plain(name) not in items]
        single = [f"{verb} {item}" for item in items for verb in (*_CUTS, "take", "eat")]
        cook = [f"cook {item} in {heat}" for item in items for heat in _HEAT]
        doors = [f"{verb} {place}" for place in places for verb in ("open", "close")]
        moves = [f"move {d}" for d in DIRECTIONS]
        return sorted({*single, *cook, *doors, *moves, "prepare meal", "eat meal"})

    def _load(self, payload: str) -> tuple[str, dict[str, Any]]:
        super()._load(payload)
        goal = self._read_cookbook()
        state, info = super()._load(payload)
        self._gold = [action for action in self._gold if not action.endswith("cookbook")]
        return state, info | {"instruction": goal}

    def _read_cookbook(self) -> str:
        """The recipe as a goal, by the gold path as far as the page is read."""
        text = ""
        for action in self._gold[: self._gold.index("read cookbook") + 1]:
            text = self._running().step(action)[3]["observation"]
        found = _RECIPE.search(text)
        if found is None:
            raise ValueError(f"no recipe in '{text}'")
        needs, steps = ([line.strip() for line in part.strip().splitlines()] for part in found.groups())
        todo = ", ".join(step.replace(" the ", " ") for step in steps)
        return f"meal of {', '.join(needs)}: {todo}, eat meal"
