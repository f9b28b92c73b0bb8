"""What a tracker is told of an iteration's episodes: few, of both kinds, under the names of the live page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dreamgym.telemetry.rollouts import COLUMNS, LETTERS, ROLLOUTS, rollouts, turns
from dreamgym.types import Task, Trajectory, Transition

PAGE = Path(__file__).parents[3] / "dreamgym" / "view" / "static" / "js" / "episodes.js"


def episode(name: str, group: str, success: bool = False, status: str = "ok") -> Trajectory:
    steps = [Transition("hall", "", "hall", -0.1, False, malformed="no_action", answer="hm")]
    steps.append(Transition("hall", "go north", "kitchen", 1.0, success, thought="north"))
    task = Task(group, "rooms", f"do {group}", first_state="hall")
    return Trajectory(
        name, task, "policy", "dream", steps, success=success, truncated=not success, group=group,
        status=status, iteration=3,  # type: ignore[arg-type]
    )  # fmt: skip


def test_the_columns_are_those_of_the_page_and_the_turns() -> None:
    page = PAGE.read_text(encoding="utf-8")
    labels = re.findall(r'^  \["\w+", "([^"]+)", (?:true|false)\],$', page, re.M)
    assert (*labels, "Turns") == COLUMNS


def test_a_row_says_what_became_of_an_episode() -> None:
    (row,) = rollouts([episode("e", "g", success=True)])
    assert row["Turns"] == "hall\n> hm\nhall\n(north)\n> go north\nkitchen"
    del row["Turns"]
    assert row == {
        "Episode": "e", "Iteration": 3, "Outcome": "won", "Steps": 2, "World": "dream", "Player": "policy",
        "Task": "do g", "Reward": pytest.approx(0.9), "No action": 1,
    }  # fmt: skip
    assert [rollouts([t])[0]["Outcome"] for t in (episode("e", "g"), episode("e", "g", status="env_failed"))] == [
        "cut",
        "failed",
    ]


@pytest.mark.parametrize(("won", "lost"), [(0, 3), (64, 0), (64, 64), (1, 64), (64, 2), (0, 0)])
def test_there_are_few_of_many_half_of_them_won_where_there_are(won: int, lost: int) -> None:
    played = [episode(f"w{i}", f"g{i % 8}", success=True) for i in range(won)]
    played += [episode(f"l{i}", f"g{i % 8}") for i in range(lost)]
    rows = rollouts(played)
    assert len(rows) == min(ROLLOUTS, won + lost)
    half = ROLLOUTS // 2
    assert sum(row["Outcome"] == "won" for row in rows) == min(won, max(half, ROLLOUTS - lost))
    ids = [t.id for t in played]
    assert [ids.index(str(row["Episode"])) for row in rows] == sorted(ids.index(str(row["Episode"])) for row in rows)
    assert len({row["Task"] for row in rows if row["Outcome"] == "won"}) == min(won, half, 8) or won > half > lost


def test_a_long_episode_is_cut_in_its_middle() -> None:
    long = episode("e", "g")
    long.steps = [Transition("begin", "look", "x" * LETTERS, 0.0, False), Transition("x", "stop", "the end", 0.0, True)]
    text = turns(long)
    assert len(text) < LETTERS + 20 and text.startswith("begin") and text.endswith("the end") and "[…]" in text
