"""Online refresh: what the copy learns from, when it may take over, and which model a resumed run dreams with."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamgym.config import RunConfig
from dreamgym.errors import DataError
from dreamgym.models.chat import ChatFormat
from dreamgym.models.tokenizer import train_tokenizer
from dreamgym.replay.records import StoredTransition
from dreamgym.serve.experience import DreamAnswer
from dreamgym.training.checkpoints import newest_world
from dreamgym.training.fidelity import Prediction
from dreamgym.training.world_refresh import (
    WorldRefresh,
    conversations,
    no_less_true,
    refresh_examples,
    win_precision,
)
from dreamgym.types import Task, Trajectory, Transition

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


@pytest.mark.parametrize(("own", "may"), [(0.5, True), (0.7, True), (0.49, False)])
def test_nor_where_more_of_its_wins_are_false_on_the_steps_of_the_policy(own: float, may: bool) -> None:
    before = {"state_exact": 0.5, "outcome_accuracy": 0.9, "own_precision": 0.5}
    assert no_less_true(before, {**before, "own_precision": own}) is may


def test_precision_is_of_the_steps_that_are_called_won() -> None:
    def told(said: float, true: float) -> Prediction:
        real = Transition("s", "a", "t", true, bool(true))
        return Prediction(real, DreamAnswer("", "t", said, bool(said)))

    false, missed, right, quiet = told(1, 0), told(0, 1), told(1, 1), told(0, 0)
    assert win_precision([false, right, right, right, missed, quiet], 0.0) == 0.75
    assert win_precision([quiet, quiet], 0.0) == 1.0
    assert win_precision([quiet, missed], 0.0) == 0.0
    assert win_precision([told(0.4, 1), right], 0.5) == 1.0, "an end below the bar is no win"
    unreadable = Prediction(right.real, DreamAnswer(reward=1.0, done=True, error="no state"))
    assert win_precision([unreadable, right], 0.0) == 1.0


def test_corrections_are_all_read_and_the_seed_data_fills_what_is_left_anew_each_time() -> None:
    """Among all of the seed data, most of which a refresh never reads, a few corrections would not be read at all."""

    def episode(name: str, world: str) -> Trajectory:
        steps = [Transition(f"at {n}", f"go {n}", f"at {n + 1}", 0.0, False, "so") for n in range(6)]
        return Trajectory(name, Task(f"task {name}", "coin", f"find {name}"), "policy", world, steps)  # type: ignore[arg-type]

    chat = ChatFormat(train_tokenizer(["find at go so c0 c1 seed 1 2 3 4 5 6 7 8 9 0"] * 8, 330, 256))
    seed_data = [episode(f"seed{n}", "real") for n in range(200)]
    mine = [episode("c0", "real"), episode("c0", "real"), episode("c1", "real")]

    def read(iteration: int, corrections: list[Trajectory], tokens: int = 4000) -> tuple[list[str], int]:
        settings = {"world": {"refresh": {"sft": {"tokens": tokens}}}, "replay": {"top_k": 1}}
        table = refresh_examples(RunConfig.model_validate(settings), seed_data, corrections, chat, iteration)
        texts = [chat.decode(ids) for ids in table["ids"].to_pylist()]
        found = [re.search(r"dream find (\w+)", text) for text in texts]
        return [m.group(1) for m in found if m], sum(len(ids) for ids in table["ids"])

    first, tokens = read(1, mine)
    assert [first.count(name) for name in ("c0", "c1")] == [2, 1]
    assert 0.7 * 4000 < tokens < 1.5 * 4000 and len(first) < 100
    again, _ = read(2, mine)
    assert {*again} != {*first} and [again.count(name) for name in ("c0", "c1")] == [2, 1]
    small, _ = read(1, mine, tokens=100)
    assert len(small) > len(mine), "the seed data is not forgotten, however many corrections there are"
    assert len(read(1, [])[0]) == len(seed_data)


@pytest.mark.parametrize("other", [{"replay": {"top_k": 0}}, {"train": {"colocate": True}}])
def test_what_it_needs_of_other_settings_is_said(other: dict[str, object]) -> None:
    engine = {"engine": {"gpu_memory_utilization": 0.4}}
    with pytest.raises(ValueError, match=r"world\.refresh\.every"):
        RunConfig.model_validate({"world": {"refresh": {"every": 2}, **engine}, "policy": engine, **other})


def test_corrections_need_evaluations_to_be_taken_at_and_refreshes_to_be_learned_at() -> None:
    refresh = {"every": 2, "transitions": 100}
    for refused in (
        {"world": {"refresh": {"transitions": 100}}},
        {"world": {"refresh": refresh}, "train": {"eval_every": 0}},
    ):
        with pytest.raises(ValueError, match=r"world\.refresh\.transitions.*set"):
            RunConfig.model_validate(refused)
    taken = RunConfig.model_validate({"world": {"refresh": refresh}, "replay": {"top_k": 0}})
    assert taken.refreshes, "it needs no buffer"
    assert not RunConfig.model_validate({"real": {"use": "dream"}}).refreshes
    engine = {"engine": {"gpu_memory_utilization": 0.4}}
    shared = {"train": {"colocate": True}, "world": engine, "policy": engine}
    with pytest.raises(ValueError, match=r"real\.use=both needs a GPU of its own"):
        RunConfig.model_validate({**shared, "real": {"use": "both", "transitions": 900}})


def test_a_resumed_run_dreams_with_the_model_of_its_checkpoint(tmp_path: Path) -> None:
    assert newest_world(tmp_path) is None
    for iteration, world in ((5, "world"), (10, "world-00008")):
        folder = tmp_path / "checkpoints" / f"iteration-{iteration:05d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"iteration": iteration, "world": world}))
        (tmp_path / "world-00008").mkdir(exist_ok=True)
        assert newest_world(tmp_path) == (tmp_path / "world-00008" if iteration == 10 else None)


def test_what_goes_on_after_a_training_dreams_with_its_last_model_until_it_has_one_of_its_own(tmp_path: Path) -> None:
    def checkpoint(stage: str, iteration: int, world: str) -> None:
        folder = tmp_path / stage / "checkpoints" / f"iteration-{iteration:05d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"iteration": iteration, "world": world}))

    before, after = tmp_path / "train", tmp_path / "real"
    checkpoint("train", 10, "world-00008")
    assert newest_world(after, before) == before / "world-00008"
    checkpoint("real", 11, "world-00008")
    assert newest_world(after, before) == before / "world-00008"
    checkpoint("real", 14, "world-00014")
    assert newest_world(after, before) == after / "world-00014"
