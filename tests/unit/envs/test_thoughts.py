"""Rules for what an expert thinks, a line before each action, and for the line of an earlier turn."""

from __future__ import annotations

import pytest

from dreamgym.commands.annotate import think_by_rule
from dreamgym.config.loading import load_config
from dreamgym.data.seed_play import collect_trajectories
from dreamgym.envs.base import REGISTRY, env_class, line_rule
from dreamgym.envs.mapreader import MapReader
from dreamgym.envs.scienceworld import ScienceWorld
from dreamgym.envs.webshop import WebShop
from dreamgym.errors import EnvError
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


class Lines(MapReader):
    """A class with a rule for lines, which fails at an action that it does not know."""

    @staticmethod
    def line(transition: Transition) -> str:
        return {"go": "went on", "stay": 3}[transition.action]  # type: ignore[return-value]


def test_a_rule_for_lines_is_used_and_its_faults_are_one_sentence() -> None:
    assert line_rule("mapreader") is None
    rule = line_rule("tests.unit.envs.test_thoughts:Lines")
    assert rule is not None and rule(Transition("", "go", "", 0.0, False)) == "went on"
    for action, told in (("stay", "gave int, not text"), ("jump", r"failed \(KeyError")):
        with pytest.raises(EnvError, match=rf"line\(\) of '.*' {told}"):
            rule(Transition("", action, "", 0.0, False))
