"""ALFWorld's real games: what the hand-coded expert wins, how states open, and the folds."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamgym.envs.alfworld import AlfWorld
from dreamgym.errors import EnvError
from dreamgym.types import Task, Transition

pytest.importorskip("alfworld", reason="the extra 'alfworld' is not installed")
DATA = Path(__file__).parents[4] / "shared" / "data"
with_data = pytest.mark.skipif(not (DATA / "alfworld_train.jsonl.xz").is_file(), reason="the ALFWorld data is absent")


@pytest.fixture(scope="module")
def env() -> Iterator[AlfWorld]:
    env = AlfWorld(str(DATA))
    yield env
    env.close()


def play(env: AlfWorld, task: Task) -> tuple[list[float], dict[str, object]]:
    state, info = env.reset(task)
    assert info["instruction"] == task.instruction
    rewards: list[float] = []
    done = False
    while not done and len(rewards) < 50:
        action = env.expert_action()
        after, reward, done, _, info = env.step(action)
        step = Transition(state, action, after, reward, done)
        assert env.reason(task, [], step).endswith(f": {after.splitlines()[-1].split()[0]}")
        rewards.append(reward)
        state = after
    assert bool(info["success"]) == state.startswith("solved")
    return rewards, info


@with_data
def test_the_expert_wins_most_games_and_only_the_last_step_is_rewarded(env: AlfWorld) -> None:
    tasks = env.tasks("test", 4, seed=0)
    wins = 0
    for task in tasks:
        rewards, info = play(env, task)
        wins += bool(info["success"])
        assert sum(rewards) == rewards[-1] == float(bool(info["success"]))
    assert wins >= 3


@with_data
def test_what_is_not_possible_is_refused_and_changes_nothing(env: AlfWorld) -> None:
    first, _ = env.reset(env.tasks("train", 1, seed=0)[0])
    state, reward, done, _, info = env.step("fly to the moon")
    assert (reward, done, info["valid"]) == (0.0, False, False)
    assert state == first.splitlines()[-1].replace("moved", "refused", 1)
    assert all(action.split()[0] != "look" for action in env.valid_actions())


@with_data
def test_folds_share_no_game_and_a_seed_gives_the_same_tasks(env: AlfWorld) -> None:
    ids = [{t.id for t in env.tasks(fold, 20, seed=0)} for fold in ("train", "dev", "test")]
    assert len(set.union(*ids)) == 60
    assert env.tasks("dev", 5, seed=1) == env.tasks("dev", 5, seed=1)


@with_data
def test_the_official_download_plays_the_same_game(env: AlfWorld, tmp_path: Path) -> None:
    task = env.tasks("test", 1, seed=0)[0]
    with lzma.open(DATA / "alfworld_valid_seen.jsonl.xz", "rt") as lines:
        row = next(r for r in map(json.loads, lines) if r["id"] == json.loads(task.payload)["game"])
    for name, solvable in (("solvable", True), ("unsolvable", False)):
        place = tmp_path / "json_2.1.1" / "valid_seen" / name / "trial"
        place.mkdir(parents=True)
        (place / "game.tw-pddl").write_text(json.dumps({"pddl_problem": row["pddl_problem"], "solvable": solvable}))
        (place / "traj_data.json").write_text(json.dumps({k: v for k, v in row.items() if k != "pddl_problem"}))
    official = AlfWorld(str(tmp_path))
    (found,) = official.tasks("test", 10, seed=0)
    assert official.reset(found)[0] == env.reset(task)[0]
    official.close()


def test_missing_data_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(EnvError, match="set ALFWORLD_DATA"):
        AlfWorld()
    with pytest.raises(EnvError, match="no game of the split train"):
        AlfWorld(str(tmp_path)).tasks("train", 1, seed=0)
