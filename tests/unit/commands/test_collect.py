"""Seed data: who acted, that the records are what the environment really does, folds, faults and resuming."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dreamgym.commands.collect import collect, summarise
from dreamgym.config import RunConfig
from dreamgym.data.journal import Journal
from dreamgym.data.seed_episode import garble, slip
from dreamgym.data.seed_play import collect_trajectories
from dreamgym.errors import DataError, DreamgymError, EnvError
from dreamgym.schema import read_parquet
from dreamgym.types import Fold, Task, Trajectory
from examples.keyhouse import KeyHouse
from tests.waiting import HANG_S


class Watched(KeyHouse):
    """The example, counting the folds asked for and the resets; fails where it is told to."""

    folds: ClassVar[Counter[str]] = Counter()
    resets: ClassVar[Counter[str]] = Counter()
    bad_tasks: ClassVar[set[str]] = set()
    flaky: ClassVar[bool] = False
    stop_after: ClassVar[int] = 0

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        self.folds[fold] += 1
        return super().tasks(fold, count, seed)

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        self.resets[task.id] += 1
        if task.id in self.bad_tasks or (self.flaky and self.resets[task.id] == 1):
            raise RuntimeError("this house has burnt down")
        if self.stop_after and sum(self.resets.values()) > self.stop_after:
            raise EnvError("somebody pulled the plug")
        return super().reset(task)


class Blind:
    """No expert; also no action to try, unless a subclass says so."""

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        return [Task(f"{fold}{i}", "blind", "guess") for i in range(min(count, 3))]

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        return "dark", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "dark", 0.0, False, False, {}

    def close(self) -> None: ...


class Groping(Blind):
    """Commands, and nothing else."""

    def commands(self) -> list[str]:
        return ["left", "right"]


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Watched.folds.clear()
    Watched.resets.clear()
    Watched.bad_tasks = set()
    Watched.flaky = False
    Watched.stop_after = 0


def config(tmp_path: Path, env: str = "Watched", workers: int = 1, seed: int = 0, **fields: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "out": tmp_path,
            "seed": seed,
            "env": {"name": f"{__name__}:{env}", "workers": workers, "timeout_s": HANG_S},
            "collect": {"tasks": 12, "heldout_tasks": 5, **fields},
        }
    )


def actions(trajectories: list[Trajectory]) -> list[tuple[str, list[str]]]:
    return [(t.id, [s.action for s in t.steps]) for t in trajectories]


def test_the_result_depends_on_the_seed_and_not_on_the_number_of_workers(tmp_path: Path) -> None:
    one = collect_trajectories(config(tmp_path), "train", 12).trajectories
    three = collect_trajectories(config(tmp_path, workers=3), "train", 12).trajectories
    other = collect_trajectories(config(tmp_path, seed=1), "train", 12).trajectories
    assert one == three
    assert actions(one) != actions(other)
    assert len({t.id for t in one}) == len(one) == 12 * 4


def test_every_record_is_what_the_environment_does_when_the_actions_are_played_again(tmp_path: Path) -> None:
    for trajectory in collect_trajectories(config(tmp_path), "train", 12).trajectories:
        env = KeyHouse()
        state, _ = env.reset(trajectory.task)
        assert trajectory.task.first_state == state
        invalid = 0
        for step in trajectory.steps:
            assert (step.state, step.expert_action) == (state, env.expert_action())
            state, reward, terminated, _, info = env.step(step.action)
            assert (step.next_state, step.reward, step.done) == (state, reward, terminated)
            invalid += not info["valid"]
        assert trajectory.success == info["success"] == (trajectory.steps[-1].reward == 1.0)
        assert trajectory.truncated == (not trajectory.success)
        assert trajectory.info["invalid"] == invalid
        assert len(trajectory.steps) <= 15


def test_noise_and_invalid_are_the_chances_they_say(tmp_path: Path) -> None:
    noisy = config(tmp_path, expert=0, noisy=8, random=0, noise=0.4, invalid=0.3)
    steps = [s for t in collect_trajectories(noisy, "train", 60).trajectories for s in t.steps]
    strays = sum(s.action != s.expert_action for s in steps)
    assert abs(strays / len(steps) - 0.4) < 4 * math.sqrt(0.4 * 0.6 / len(steps))

    wild = config(tmp_path, expert=0, noisy=0, random=4, slips=0, invalid=0.5, garbled=0)
    expected = seen = total = 0.0
    for trajectory in collect_trajectories(wild, "train", 60).trajectories:
        env = KeyHouse()
        env.reset(trajectory.task)
        for step in trajectory.steps:
            possible = len(env.valid_actions())
            expected += 0.5 * (1 - possible / len(env.commands())) if possible else 1.0
            total += 1
            seen += not env.step(step.action)[4]["valid"]
    assert abs(seen - expected) < 4 * math.sqrt(total * 0.25)


def test_a_garbled_command_has_one_other_word_or_another_end(tmp_path: Path) -> None:
    commands = KeyHouse().commands()
    known = {word for command in commands for word in command.split()}
    heads = {a[:i] for a in commands for i in range(1, len(a.split()[0]) + 1)}
    tails = {b[j:] for b in commands for j in range(1, len(b) + 1)}
    spliced = {(head + tail).strip() for head in heads for tail in tails}
    swapped = {
        " ".join([*a.split()[:i], w, *a.split()[i + 1 :]])
        for a in commands
        for i in range(len(a.split()))
        for w in known
    }
    rng = random.Random(0)
    made = {garble(rng, commands) for _ in range(400)}
    assert made <= spliced | swapped
    assert made - spliced and made - swapped
    garbled = config(tmp_path, expert=0, noisy=0, random=4, slips=0, invalid=1.0, garbled=0.5)
    steps = [s for t in collect_trajectories(garbled, "train", 30).trajectories for s in t.steps]
    strange = sum(s.action not in commands for s in steps)
    assert 0.3 < strange / len(steps) <= 0.5
    assert not any(s.valid for s in steps if s.action not in commands)


def test_a_slip_is_what_the_expert_would_do_with_one_word_wrong(tmp_path: Path) -> None:
    commands = KeyHouse().commands()
    known = {word for command in commands for word in command.split()}
    rng = random.Random(0)
    for command in commands:
        for made in {slip(rng, command, commands) for _ in range(20)}:
            assert sum(a != b for a, b in zip(made.split(), command.split(), strict=True)) == 1
            assert set(made.split()) <= known
    assert slip(rng, "left", ["left"]) == "left left"

    noisy = config(tmp_path, expert=0, noisy=8, random=0, noise=0.5, slips=0.4, invalid=0)
    steps = [s for t in collect_trajectories(noisy, "train", 60).trajectories for s in t.steps]
    strays = [s for s in steps if s.action != s.expert_action]
    strange = sum(s.action not in commands for s in strays)
    assert 0.25 < strange / len(strays) < 0.4 + 4 * math.sqrt(0.4 * 0.6 / len(strays))
    assert not any(s.valid for s in strays if s.action not in commands)
    winning = [s for s in strays if s.expert_action in commands and s.action not in commands]
    assert {s.expert_action.split()[0] for s in winning} == {s.expert_action.split()[0] for s in steps}


def test_rates_below_one_visit_that_share_of_the_tasks(tmp_path: Path) -> None:
    some = config(tmp_path, expert=0.25, noisy=1.5, random=0)
    counts = Counter(t.source for t in collect_trajectories(some, "train", 12).trajectories)
    assert counts == {"expert": 3, "noisy": 18}


def test_the_stage_keeps_the_folds_apart_and_never_asks_for_the_test_fold(tmp_path: Path) -> None:
    run = config(tmp_path)
    collect(run)
    train, heldout = (read_parquet(run.run_dir / "data" / f"{name}.parquet") for name in ("train", "heldout"))
    assert dict(Watched.folds) == {"train": 1, "dev": 1}
    assert ({t.fold for t in train}, {t.fold for t in heldout}) == ({"train"}, {"dev"})
    houses = [{t.task.payload for t in part} for part in (train, heldout)]
    assert (len(houses[0]), len(houses[1])) == (12, 5)
    assert not houses[0] & houses[1]
    assert not any((run.run_dir / "data").glob("*.arrows"))
    collect(run)
    assert Watched.folds["train"] == 1, "a finished stage was run again"


def test_a_task_that_fails_twice_is_left_out_and_a_flaky_one_is_not(tmp_path: Path) -> None:
    whole = collect_trajectories(config(tmp_path), "train", 12)
    Watched.resets.clear()
    Watched.flaky = True
    assert collect_trajectories(config(tmp_path), "train", 12) == whole
    Watched.flaky = False
    bad = whole.trajectories[20].task.id
    Watched.bad_tasks = {bad}
    rest = collect_trajectories(config(tmp_path, workers=2), "train", 12)
    assert rest.skipped == {bad: "RuntimeError: this house has burnt down"}
    assert rest.trajectories == [t for t in whole.trajectories if t.task.id != bad]


def test_failing_task_after_task_stops_with_the_reason(tmp_path: Path) -> None:
    Watched.bad_tasks = {t.id for t in KeyHouse().tasks("train", 12, 0)}
    with pytest.raises(EnvError, match=r"failed on 5 tasks in a row.*burnt down"):
        collect(config(tmp_path))


def test_without_an_expert_only_random_episodes_are_played_and_that_is_said(tmp_path: Path) -> None:
    found = collect_trajectories(config(tmp_path, env="Groping", garbled=0), "train", 12)
    assert {t.source for t in found.trajectories} == {"random"}
    assert found.notes == ["no expert_action(): only random episodes", "the train fold has 3 tasks, not 12"]
    assert {s.action for t in found.trajectories for s in t.steps} == {"left", "right"}
    assert summarise(found.trajectories)["random"].invalid is None
    with pytest.raises(EnvError, match="nobody can act in it"):
        collect_trajectories(config(tmp_path, env="Blind"), "train", 12)


def test_no_episode_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"raise collect\.expert, noisy or random"):
        collect(config(tmp_path, expert=0, noisy=0, random=0))


def test_an_interrupted_collection_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = config(tmp_path / "whole")
    collect(whole)
    Watched.resets.clear()
    run = config(tmp_path / "stopped")
    Watched.stop_after = 22
    with pytest.raises(EnvError, match="plug"):
        collect(run)
    finished = {task for task, resets in Watched.resets.items() if resets == 4}
    assert len(finished) == 5
    Watched.stop_after = 0
    Watched.resets.clear()
    collect(run)
    assert not finished & set(Watched.resets), "a finished task was played again"
    for name in ("train.parquet", "heldout.parquet"):
        assert read_parquet(run.run_dir / "data" / name) == read_parquet(whole.run_dir / "data" / name)


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_journal_that_was_cut_off_keeps_its_whole_batches(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.arrows"
    trajectories = collect_trajectories(config(tmp_path), "train", 6).trajectories
    with Journal(path, resume=False) as journal:
        for i in range(0, len(trajectories), 4):
            journal.add(trajectories[i : i + 4])
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, resume=True) as journal:
        kept = [t for batch in journal.kept.values() for t in batch]
        journal.add(trajectories[-4:])
    assert kept == trajectories[: len(kept)]
    assert len(kept) >= 16
    with Journal(path, resume=True) as journal:
        assert trajectories[-1] in journal.kept[trajectories[-1].task.id]
    with Journal(path, resume=False) as journal:
        assert not journal.kept


def test_files_replace_collecting(tmp_path: Path) -> None:
    lines = [
        {"task": {"id": str(i), "instruction": "go"}, "steps": [{"state": "a", "action": "b"}], "success": True}
        for i in range(20)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    run = config(tmp_path, files=[str(file)])
    collect(run)
    assert not Watched.folds
    train = read_parquet(run.run_dir / "data" / "train.parquet")
    heldout = read_parquet(run.run_dir / "data" / "heldout.parquet")
    assert (len(train), len(heldout)) == (18, 2)


def test_a_missing_file_leaves_no_finished_stage(tmp_path: Path) -> None:
    run = config(tmp_path, files=[str(tmp_path / "none.jsonl")])
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        collect(run)
    assert not (run.run_dir / "stages" / "collect.json").exists()


def test_mapreader_is_collected_from_its_real_game_server(tmp_path: Path) -> None:
    run = RunConfig.model_validate({"out": tmp_path, "env": {"name": "mapreader", "workers": 1, "timeout_s": HANG_S}})
    try:
        found = collect_trajectories(run, "train", 3)
    except DreamgymError as error:
        pytest.fail(str(error))
    by_source = summarise(found.trajectories)
    assert by_source["expert"].success_rate == 1.0
    assert by_source["random"].invalid is not None
    assert by_source["random"].invalid > 0
