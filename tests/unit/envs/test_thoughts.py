"""The rules of the built-in games for what an expert thinks: a line before each action, from what it can know."""

from __future__ import annotations

import pytest

from dreamgym.commands.annotate import think_by_rule
from dreamgym.config.loading import load_config
from dreamgym.data.seed_play import collect_trajectories
from dreamgym.envs.base import REGISTRY, env_class
from dreamgym.envs.scienceworld import ScienceWorld
from dreamgym.envs.webshop import WebShop
from dreamgym.types import Task, Transition


def test_each_built_in_environment_has_a_rule() -> None:
    assert [name for name in REGISTRY if not callable(getattr(env_class(name), "think", None))] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [("coin", "needs coin ; "), ("cookingworld", "needs "), ("twc", "The "), ("mapreader", "coin ")],
)
def test_the_expert_thinks_a_line_before_each_action(name: str, told: str) -> None:
    config = load_config(None, [f"env.name={name}", "collect.noisy=0", "collect.random=0", "env.workers=1"])
    episodes = collect_trajectories(config, "train", 4).trajectories
    think_by_rule(name, episodes)
    thoughts = [step.thought for t in episodes for step in t.steps]
    assert all(thought and "\n" not in thought for thought in thoughts)
    assert any(thought.startswith(told) for thought in thoughts)
    assert len(set(thoughts)) > len(thoughts) / 4


def test_thoughts_of_scienceworld_tell_the_way_and_the_goal_but_not_what_follows() -> None:
    task = Task(
        "t",
        "scienceworld",
        "find a plant. First, focus on it.",
        first_state="moved at hall sees tree exits kitchen open holds nothing",
    )
    assert ScienceWorld.think(task, [], "go to kitchen") == "kitchen open"
    assert ScienceWorld.think(task, [], "focus on tree") == "at hall, tree, focus nothing, find plant"


def test_thoughts_of_webshop_tell_what_is_wanted() -> None:
    task = Task("t", "webshop", "a red mug", first_state="moved at start search")
    at_product = Transition("", "", "moved at product mug $3.00 options colour: red buttons buy now", 0.0, False)
    told = {"search[red mug]": "look for red mug", "click[b01]": "b01 may fit"}
    assert {action: WebShop.think(task, [], action) for action in told} == told
    assert WebShop.think(task, [at_product], "click[red]") == "red is wanted"
    assert WebShop.think(task, [at_product], "click[buy now]") == "all is as wanted"
