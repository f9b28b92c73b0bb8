"""The metrics of rollouts, from trajectories made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dreamgym.errors import DataError
from dreamgym.training.rollout_metrics import rollout_metrics
from dreamgym.types import Task, TokenSample, Trajectory, Transition

STEP = Transition("a", "go", "b", 0.0, False)
UPDATES = [1, 2, 3, 4, 5]


def episode(name: str, versions: list[int], info: dict[str, float], steps: int = 2) -> Trajectory:
    sample = TokenSample()
    sample.add_context([1, 2, 3])
    sample.add_sampled([4] * len(versions), [-0.25] * len(versions), versions)
    return Trajectory(
        name, Task("t", "e", "goal"), "policy", "dream", steps=[STEP] * steps, samples=[sample], info=dict(info)
    )


def test_age_is_counted_from_the_version_that_learns_and_only_for_sampled_tokens() -> None:
    found = rollout_metrics([episode("a", [3, 3, 4], {}), episode("b", [5], {})], 2.0, UPDATES)
    assert found["rollout/staleness"] == pytest.approx((2 + 2 + 1 + 0) / 4)
    assert found["rollout/staleness_max"] == 2
    assert found["rollout/entropy"] == pytest.approx(0.25)
    assert found["rollout/tokens"] == 6 + 4


def test_groups_are_counted_that_ended_alike_and_failed_episodes_are_none_of_theirs() -> None:
    played = []
    for group, wins in (("won", (True, True)), ("lost", (False, False)), ("mixed", (True, False)), ("one", (True,))):
        for number, won in enumerate(wins):
            step = replace(STEP, reward=1.0, done=True) if won else STEP
            played.append(replace(episode(f"{group}{number}", [5], {}), steps=[step], group=group, success=won))
    played.append(replace(episode("failed", [5], {}), group="one", status="env_failed"))
    found = rollout_metrics(played, 2.0, UPDATES)
    assert (found["rollout/groups_all_won"], found["rollout/groups_all_lost"]) == (2, 1)


def test_an_iteration_without_an_update_makes_nothing_older() -> None:
    assert rollout_metrics([episode("a", [1, 3], {})], 2.0, [1, 3])["rollout/staleness_max"] == 1


def test_shares_are_of_all_tokens_and_steps_of_the_episodes_that_did_not_fail() -> None:
    first = {"policy_read": 30.0, "policy_cached": 15.0, "dream_read": 100.0, "dream_cached": 80.0}
    lost = episode("c", [5], {"policy_read": 1e6, "dream_read": 1e6})
    lost.status = "env_failed"
    found = rollout_metrics(
        [
            episode("a", [5], {**first, "dream_written": 40.0, "dream_dreamed": 2.0}),
            episode("b", [5], {"policy_read": 10.0, "policy_cached": 5.0}, steps=6),
            lost,
        ],
        2.0,
        UPDATES,
    )
    assert found["rollout/policy_cache_hit"] == pytest.approx(20 / 40)
    assert found["rollout/dream_cache_hit"] == pytest.approx(0.8)
    assert found["rollout/dream_shared"] == pytest.approx(1 - 2 / 8)
    assert found["rollout/dream_computed"] == 100 - 80 + 40
    assert (found["rollout/episodes"], found["dream/env_failed"]) == (3, 1)


def test_answers_that_are_no_action_are_counted_by_kind() -> None:
    faulty, fine = episode("a", [5], {}, steps=3), episode("b", [5], {}, steps=5)
    kinds = ("no_action", "", "unfinished")
    faulty.steps = [replace(STEP, malformed=kind) for kind in kinds]
    found = rollout_metrics([faulty, fine], 1.0, UPDATES)
    assert found["rollout/malformed"] == 2 / 8
    assert {k: v for k, v in found.items() if k.startswith("rollout/malformed_")} == {
        "rollout/malformed_no_action": 1,
        "rollout/malformed_unfinished": 1,
    }
    assert rollout_metrics([fine], 1.0, UPDATES)["rollout/malformed"] == 0


def test_a_reward_that_is_no_success_is_seen_beside_it() -> None:
    half, won, lost = episode("a", [5], {}, steps=2), episode("b", [5], {}), episode("c", [5], {})
    half.steps = [replace(STEP, reward=0.25), replace(STEP, reward=0.25, done=True)]
    won.steps, won.success = [replace(STEP, reward=1.0, done=True)], True
    lost.steps, lost.status = [replace(STEP, reward=9.0)], "env_failed"
    found = rollout_metrics([half, won, lost], 1.0, UPDATES)
    assert (found["dream/success"], found["dream/reward"]) == (0.5, 0.75)


def test_overruled_successes_are_counted_where_there_was_a_vote() -> None:
    rollouts = [episode("a", [5], {"dream_overruled": 2.0}), episode("b", [5], {}), episode("c", [5], {})]
    assert rollout_metrics(rollouts, 1.0, UPDATES)["dream/overruled"] == 2
    assert "dream/overruled" not in rollout_metrics(rollouts[1:], 1.0, UPDATES)


def test_real_rollouts_have_no_dreamed_shares_and_nothing_at_all_is_an_error() -> None:
    found = rollout_metrics([episode("a", [5], {"policy_read": 4.0, "policy_cached": 1.0})], 1.0, UPDATES)
    assert not [name for name in found if name.startswith("rollout/dream")]
    lost = episode("a", [5], {})
    lost.status = "env_failed"
    with pytest.raises(DataError, match="every episode"):
        rollout_metrics([lost], 1.0, UPDATES)
