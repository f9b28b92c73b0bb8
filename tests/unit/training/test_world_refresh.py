"""Online refresh: what the copy learns from, when it may take over, and which model a resumed run dreams with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.replay.records import StoredTransition
from dreamgym.training.checkpoints import newest_world
from dreamgym.training.world_refresh import WorldRefresh, conversations, no_less_true
from dreamgym.types import Task

TASK = Task("t", "e", "find it", first_state="map\nat s0")
STEP = StoredTransition("t", "x", 0, "at s0", "go", "at s1", 0.0, False, "so", "dream", "run/world", 3)


def stored(trajectory: str, step: int) -> StoredTransition:
    return replace(STEP, trajectory_id=trajectory, step=step, state=f"at s{step}", next_state=f"at s{step + 1}")


@given(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 8))), st.randoms())
def test_conversations_hold_every_stored_step_once_and_have_no_gap(steps: set[tuple[str, int]], random: object) -> None:
    items = [stored(*step) for step in sorted(steps)]
    random.shuffle(items)  # type: ignore[attr-defined]
    found = conversations(items, lambda _: TASK)
    assert len({t.id for t in found}) == len(found)
    told = [(t.id.split("+")[0], int(step.state.removeprefix("at s"))) for t in found for step in t.steps]
    assert sorted(told) == sorted(steps)
    for t in found:
        assert all(a.next_state == b.state for a, b in zip(t.steps, t.steps[1:], strict=False))
        last = int(t.steps[-1].state.removeprefix("at s"))
        assert (t.id.split("+")[0], last + 1) not in steps, "what followed belongs to the same conversation"


@pytest.mark.parametrize(
    ("state", "outcome", "may"), [(0.5, 0.9, True), (0.6, 0.95, True), (0.6, 0.89, False), (0.49, 0.95, False)]
)
def test_it_takes_over_only_where_nothing_fell(state: float, outcome: float, may: bool) -> None:
    before = {"state_exact": 0.5, "outcome_accuracy": 0.9}
    assert no_less_true(before, {"state_exact": state, "outcome_accuracy": outcome}) is may


def test_without_held_out_steps_there_is_no_guard_and_so_no_refresh(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"world": {"refresh": {"every": 2}}})
    with pytest.raises(DataError, match=r"world\.refresh\.every.*held-out"):
        WorldRefresh(config, tmp_path, [], [])


@pytest.mark.parametrize("other", [{"replay": {"top_k": 0}}, {"train": {"colocate": True}}])
def test_what_it_needs_of_other_settings_is_said(other: dict[str, object]) -> None:
    engine = {"engine": {"gpu_memory_utilization": 0.4}}
    with pytest.raises(ValueError, match=r"world\.refresh\.every"):
        RunConfig.model_validate({"world": {"refresh": {"every": 2}, **engine}, "policy": engine, **other})


def test_a_resumed_run_dreams_with_the_model_of_its_checkpoint(tmp_path: Path) -> None:
    assert newest_world(tmp_path) is None
    for iteration, world in ((5, "world"), (10, "world-00008")):
        folder = tmp_path / "checkpoints" / f"iteration-{iteration:05d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"iteration": iteration, "world": world}))
        (tmp_path / "world-00008").mkdir(exist_ok=True)
        assert newest_world(tmp_path) == (tmp_path / "world-00008" if iteration == 10 else None)
