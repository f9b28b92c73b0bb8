"""The stage `annotate`, by a rule or by nobody: what it writes, and which rules it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dreamgym.commands.annotate import annotate, by_rule, think_by_rule
from dreamgym.commands.collect import collect
from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError, DataError, EnvError
from dreamgym.schema import read_parquet
from dreamgym.types import Task, Trajectory, Transition
from tests.waiting import HANG_S


def rooms(count: int) -> list[Trajectory]:
    """Trajectories of two steps each."""
    return [
        Trajectory(
            f"tr{i}",
            Task(f"t{i}", "e", f"leave room {i}"),
            "expert",
            "real",
            [Transition(f"room {i}", "go", f"hall {i}", 0.0, False), Transition(f"hall {i}", "exit", "out", 1.0, True)],
        )
        for i in range(count)
    ]


def run_config(tmp_path: Path, **annotation: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "out": tmp_path,
            "env": {"name": "examples.keyhouse:KeyHouse", "timeout_s": HANG_S},
            "collect": {"tasks": 4, "heldout_tasks": 2, "garbled": 0, "slips": 0},
            "annotate": annotation,
        }
    )


def test_the_rule_explains_every_step_and_predicts_what_follows(tmp_path: Path) -> None:
    run = run_config(tmp_path, by="rule")
    collect(run)
    annotate(run)
    for trajectory in read_parquet(run.run_dir / "data" / "annotated.parquet"):
        for step in trajectory.steps:
            assert step.reasoning
            assert step.reasoning.endswith("refused") == step.next_state.startswith("refused")
            assert step.reasoning.endswith("opened") == step.done
            if step.action.startswith("go ") and not step.reasoning.endswith("refused"):
                assert f"at {step.reasoning.split()[-1]} " in step.next_state


def test_none_leaves_everything_as_it_is(tmp_path: Path) -> None:
    run = run_config(tmp_path, by="none")
    collect(run)
    annotate(run)
    data = run.run_dir / "data"
    assert read_parquet(data / "annotated.parquet") == read_parquet(data / "train.parquet")


def test_the_rule_for_thoughts_gives_them_to_the_experts_actions_alone(tmp_path: Path) -> None:
    run = run_config(tmp_path, by="none", thoughts="rule")
    collect(run)
    annotate(run)
    steps = [s for t in read_parquet(run.run_dir / "data" / "annotated.parquet") for s in t.steps]
    assert {bool(s.thought) for s in steps if s.by_expert} == {True}
    assert {bool(s.thought) for s in steps if not s.by_expert} == {False}


def test_an_environment_without_a_rule_for_thoughts_is_named() -> None:
    with pytest.raises(ConfigError, match=r"annotate.thoughts: '.*Ruleless' has no rule think\(\)"):
        think_by_rule(f"{__name__}:Ruleless", rooms(1))


def test_without_the_stage_before_it_says_which_one_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'collect' is not finished"):
        annotate(run_config(tmp_path))


class Ruleless:
    """An environment without a rule."""

    def tasks(self) -> None: ...
    def reset(self) -> None: ...
    def step(self) -> None: ...
    def close(self) -> None: ...


class Crashing(Ruleless):
    """A rule that fails."""

    @staticmethod
    def reason(task: Task, history: list[Transition], transition: Transition) -> str:
        raise KeyError("hall")


class Numeric(Ruleless):
    """A rule that gives no text."""

    @staticmethod
    def reason(task: Task, history: list[Transition], transition: Transition) -> int:
        return len(history)


def test_a_rule_that_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ConfigError, match="has no rule reason"):
        by_rule(f"{__name__}:Ruleless", rooms(1))
    with pytest.raises(EnvError, match=r"at step 0 of trajectory tr0 failed .KeyError: 'hall'"):
        by_rule(f"{__name__}:Crashing", rooms(1))
    with pytest.raises(EnvError, match="gave int, not text"):
        by_rule(f"{__name__}:Numeric", rooms(1))
