"""What the doctor says of a user's class and logs, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dreamgym.commands.doctor_env import environment, logs
from dreamgym.config.loading import load_config
from dreamgym.types import Task


class Hall:
    """A house of one hall, in which `go` leads to the room and ends the game; it can break in many ways."""

    def __init__(self, breaks: str = "", word: str = "hall") -> None:
        if breaks == "built":
            raise RuntimeError("no key")
        self._breaks, self._word = breaks, word

    def tasks(self, fold: str, count: int, seed: int) -> list[Task]:
        return [] if self._breaks == "list" else [Task("t0", "x", "leave the hall")]

    def reset(self, task: Task) -> tuple[Any, dict[str, Any]]:
        return (None if self._breaks == "reset" else f"You are in the {self._word}."), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "You are in the room.", float("nan") if self._breaks == "step" else 1.0, True, False, {}

    def valid_actions(self) -> list[str]:
        return ["go"]

    def close(self) -> None:
        pass


def config(tmp_path: Path, breaks: str = "", word: str = "hall", state: str = "You are in the hall.") -> Any:
    file = tmp_path / "mine.jsonl"
    step = {"state": state, "action": "go", "next_state": "You are in the room.", "reward": 1.0, "done": True}
    rows = [
        {"task": {"id": f"t{n}", "instruction": "leave the hall"}, "success": True, "steps": [step]} for n in (0, 1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = f"env.options={{breaks: '{breaks}', word: '{word}'}}"
    return load_config(None, [f"env.name={__name__}:Hall", options, f"collect.files=[{file}]"])


def test_a_class_that_plays_and_logs_that_agree_pass(tmp_path: Path) -> None:
    asked = config(tmp_path)
    for found in (environment(asked), logs(asked)):
        assert found.ok, found
    assert environment(asked).said.endswith("can be played, as in 'leave the hall'")
    assert logs(load_config(None)).ok


def test_what_a_class_remarks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hall, "remark", "its door has no lock", raising=False)
    assert environment(config(tmp_path)).said.endswith("'leave the hall'; its door has no lock")


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        ("built", ["cannot be built", "no key"]),
        ("list", ["cannot list tasks"]),
        ("reset", ["cannot reset to task t0", "must be text"]),
        ("step", ["cannot take step 1 of task t0", "not a finite number"]),
    ],
)
def test_each_way_to_break_is_named(breaks: str, words: list[str], tmp_path: Path) -> None:
    found = environment(config(tmp_path, breaks))
    assert not found.ok
    assert [word for word in words if word not in found.said] == [], found.said


def test_logs_that_show_other_states_than_the_class_are_told(tmp_path: Path) -> None:
    found = logs(config(tmp_path, word="corridor"))
    assert not found.ok and "the corridor" in found.said and "the hall" in found.said and "before step 1" in found.said


def test_logs_that_cannot_be_read_are_told_with_their_line(tmp_path: Path) -> None:
    asked = config(tmp_path)
    asked.collect.files[0].write_text('{"task_id": 3}\n')
    found = logs(asked)
    assert not found.ok and "mine.jsonl:1" in found.said
