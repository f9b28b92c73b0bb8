"""WebShop: find and buy a product that fits an instruction (arXiv 2207.01206), as text over the shop's own data."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from dreamgym.envs.webshop_data import Goal, Product, Shop, load_shop, score
from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task, Transition, stable_id

PER_PAGE, MOST_PAGES = 10, 5
_ACTION = re.compile(r"(search|click)\[(.+)\]")


class WebShop:
    """WebShop as a `TextEnv`: a goal is a task, `search[words]` and `click[button]` are the actions.

    The abstract state is one line: the start page, a page of search results, or a product with its options, of which
    `=` shows the chosen ones. It opens with what the last action did (moved, chosen; refused, same; solved, failed).
    Descriptions and features come in a line before it. Buying ends the task with WebShop's score in [0, 1]; only a
    score of 1 is a success. No product is in two folds.

    Args:
        products: the products: JSON Lines or a JSON list, also as `.xz`.
        goals: attributes and instructions by product, JSON (`items_ins_v2*.json`).

    Raises:
        EnvError: a package is missing, or a file is missing or wrong.
    """

    success_above: ClassVar[float] = 0.999

    def __init__(self, products: str = "", goals: str = "") -> None:
        if not products or not goals:
            raise EnvError(
                "env.options: 'webshop' needs the files of WebShop; give products=items_shuffle_1000.json and "
                "goals=items_ins_v2_1000.json of its own download."
            )
        self._shop: Shop = load_shop(products, goals)
        self._goal: Goal | None = None
        self._found: list[str] = []
        self._page = 0
        self._product: Product | None = None
        self._chosen: dict[str, str] = {}
        self._rest = ""

    # TextEnv ------------------------------------------------------------------------------------

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        """Goals of the fold's products, each product once before any comes twice."""
        rng = random.Random(stable_id(seed, fold))
        ranked: list[tuple[int, float, Goal]] = []
        for asin, goals in sorted(self._shop.goals.items()):
            if fold_of(asin) == fold:
                order = rng.sample(goals, len(goals))
                ranked += [(rank, rng.random(), goal) for rank, goal in enumerate(order)]
        chosen = [goal for _, _, goal in sorted(ranked, key=lambda r: r[:2])[:count]]
        return [Task(goal.id, "webshop", goal.instruction, goal.id, "moved at start search") for goal in chosen]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        goal = self._shop.by_id.get(task.payload)
        if goal is None:
            raise EnvError(f"task.payload: '{task.payload}' is no goal of this shop; only real tasks have one.")
        self._goal = goal
        self._go_home()
        self._rest = self._line()
        return f"moved {self._rest}", {"instruction": goal.instruction, "success": False}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert self._goal is not None, "reset comes first"
        valid = self._possible(action)
        told, what = "", "refused"
        if valid and action == "click[buy now]":
            assert self._product is not None
            reward = score(self._product, self._goal, self._chosen)
            success = reward == 1.0
            what = "solved" if success else "failed"
            return f"{what} {self._rest}", reward, True, False, {"success": success, "valid": True, "score": reward}
        if valid:
            told, what = self._follow(action)
        line = self._line()
        if what == "moved" and line == self._rest:
            what = "same"
        self._rest = line
        state = f"told {told}\n{what} {line}" if told else f"{what} {line}"
        return state, 0.0, False, False, {"success": False, "valid": valid}

    def close(self) -> None:
        """The shop is shared and stays."""

    # Seed data ----------------------------------------------------------------------------------

    def valid_actions(self) -> list[str]:
        """The buttons in sight; at the start page, searches for what the goal names."""
        if not self._found and self._product is None:
            assert self._goal is not None, "reset comes first"
            return [f"search[{words}]" for words in sorted({self._goal.query, *self._goal.attributes})]
        return [f"click[{button}]" for button in self._buttons()]

    def commands(self) -> list[str]:
        """Buttons of all pages, most of them not here."""
        away = ("buy now", "back to search", "next >", "< prev", "description", "features", "size", "checkout")
        return sorted({*self.valid_actions(), *(f"click[{button}]" for button in away), "search", "buy"})

    def expert_action(self) -> str:
        """Search the product by name, choose the goal's options, buy; from anywhere."""
        assert self._goal is not None, "reset comes first"
        goal = self._goal
        if self._product is not None:
            if self._product.asin != goal.asin:
                return "click[back to search]"
            missing = [v for k, v in goal.options.items() if self._chosen.get(k) != v]
            return f"click[{missing[0]}]" if missing else "click[buy now]"
        if goal.asin.lower() in self._buttons():
            return f"click[{goal.asin.lower()}]"
        if goal.asin in self._found[(self._page + 1) * PER_PAGE :]:
            return "click[next >]"
        return "click[back to search]" if self._found else f"search[{self._shop.products[goal.asin].name}]"

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: whether the button is in sight, before what follows from it."""
        verdict = transition.next_state.rsplit("\n", 1)[-1].split(" ", 1)[0]
        found = _ACTION.fullmatch(transition.action)
        if found is None:
            return f"no such action: {verdict}"
        button = found.group(2)
        line = transition.state.rsplit("\n", 1)[-1]
        here = "search" if found.group(1) == "search" else button
        return f"{button} {'here' if here in line else 'not here'}: {verdict}"

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: what is looked for, what fits, what is still to be chosen."""
        found = _ACTION.fullmatch(action)
        if found is None:
            return action
        kind, button = found.groups()
        line = (history[-1].next_state if history else task.first_state).rsplit("\n", 1)[-1]
        if kind == "search":
            return f"look for {button}"
        if button == "buy now":
            return "all is as wanted"
        if button in ("back to search", "next >", "< prev"):
            return "what is wanted is not here"
        return f"{button} is wanted" if " at product " in line else f"{button} may fit"

    # Inside -------------------------------------------------------------------------------------

    def _possible(self, action: str) -> bool:
        found = _ACTION.fullmatch(action)
        if found is None:
            return False
        if found.group(1) == "search":
            return not self._found and self._product is None
        return found.group(2) in self._buttons()

    def _buttons(self) -> list[str]:
        if self._product is not None:
            options = [value for values in self._product.options.values() for value in values]
            return [*dict.fromkeys(options), "description", "features", "< prev", "back to search", "buy now"]
        if not self._found:
            return []
        shown = [asin.lower() for asin in self._shown()]
        after = ["next >"] if (self._page + 1) * PER_PAGE < len(self._found) else []
        before = ["< prev"] if self._page else []
        return [*shown, *before, *after, "back to search"]

    def _shown(self) -> list[str]:
        return self._found[self._page * PER_PAGE : (self._page + 1) * PER_PAGE]

    def _follow(self, action: str) -> tuple[str, str]:
        """Do a possible action: (what it only tells, what it did)."""
        kind, button = _ACTION.fullmatch(action).groups()  # type: ignore[union-attr]
        if kind == "search":
            self._found, self._page = self._shop.search(button, PER_PAGE * MOST_PAGES), 0
        elif button == "back to search":
            self._go_home()
        elif button in ("next >", "< prev"):
            if self._product is not None:
                self._product = None
            else:
                self._page += 1 if button == "next >" else -1
        elif self._product is None:
            self._product, self._chosen = self._shop.products[button.upper()], {}
        elif button in ("description", "features"):
            text = self._product.description if button == "description" else self._product.features
            return " ".join(text.split())[:600] or "nothing", "same"
        else:
            name = next(k for k, values in self._product.options.items() if button in values)
            before = self._chosen.get(name)
            self._chosen[name] = button
            return "", "same" if before == button else "chosen"
        return "", "moved"

    def _go_home(self) -> None:
        self._found, self._page, self._product, self._chosen = [], 0, None, {}

    def _line(self) -> str:
        if self._product is not None:
            p = self._product
            options = "; ".join(
                f"{name}: {', '.join(f'={v}' if self._chosen.get(name) == v else v for v in values)}"
                for name, values in p.options.items()
            )
            rest = f" options {options}" if options else ""
            buttons = "description, features, < prev, back to search, buy now"
            return f"at product {p.name} ${p.price:.2f}{rest} buttons {buttons}"
        if self._found:
            pages = -(-len(self._found) // PER_PAGE)
            rows = "; ".join(
                f"{asin.lower()} {self._shop.products[asin].name[:70]} ${self._shop.products[asin].price:.2f}"
                for asin in self._shown()
            )
            tail = ", ".join(b for b in self._buttons() if b in ("< prev", "next >", "back to search"))
            return f"at results page {self._page + 1} of {pages} {rows} buttons {tail}"
        return "at start search"


def fold_of(asin: str) -> Fold:
    """The fold of a product and all its goals: 8 of 10 products are train, 1 dev, 1 test."""
    digit = int(stable_id("fold", asin), 16) % 10
    return "dev" if digit == 8 else "test" if digit == 9 else "train"
