"""The figures of fidelity against counts made by hand."""

from __future__ import annotations

import pytest

from dreamgym.replay.records import Demo
from dreamgym.serve.experience import DreamAnswer
from dreamgym.training.fidelity import EPISODES, Prediction, scores, token_f1, train_episodes
from dreamgym.types import Task, Trajectory, Transition


def said(state: str, reward: float, done: bool, real_state: str, real_reward: float, real_done: bool) -> Prediction:
    return Prediction(Transition("s", "a", real_state, real_reward, real_done), DreamAnswer("", state, reward, done))


def test_scores_of_a_handful_of_predictions() -> None:
    unreadable = Prediction(Transition("s", "a", "x y", 0.0, False), DreamAnswer(error="not readable"))
    told = [
        said("at a", 0, False, "at a", 0, False),
        said("at b", 0, False, "at a", 0, False),
        said("won", 1, True, "won", 1, True),
        said("won", 1, True, "at a", 0, False),
        said("at a", 0, False, "won", 1, True),
        unreadable,
    ]
    result = scores(told, 0.0)
    assert result["n"] == 6
    assert result["unreadable"] == pytest.approx(1 / 6)
    assert result["state_exact"] == pytest.approx(2 / 6)
    assert result["state_f1"] == pytest.approx((1 + 0.5 + 1 + 0 + 0 + 0) / 6)
    assert result["outcome_accuracy"] == pytest.approx(3 / 6)
    assert (result["done_precision"], result["done_recall"]) == (0.5, 0.5)
    assert (result["reward_precision"], result["reward_recall"]) == (0.5, 0.5)


def test_demonstrations_are_counted_and_split_what_was_told_from_what_was_not() -> None:
    def step(after: str, said: str, *shown: tuple[str, str]) -> Prediction:
        demos = [Demo("s", "a", state, 0.0, False, "", 1.0, "x", "real", task) for task, state in shown]
        return Prediction(Transition("s", "a", after, 0.0, False), DreamAnswer("", said, demos=demos), ("t", "parent"))

    unreadable = Prediction(Transition("s", "a", "hall", 0.0, False), DreamAnswer(error="not readable"), ("t",))
    result = scores(
        [
            step("hall", "hall", ("t", "hall")),
            step("hall", "attic", ("parent", "attic"), ("other", "hall")),
            step("hall", "hall", ("other", "attic")),
            step("hall", "attic"),
            unreadable,
        ],
        0.0,
    )
    assert result["demo_shown"] == 3 / 4
    assert (result["demo_same_task"], result["demo_right"]) == (2 / 3, 2 / 3)
    assert (result["state_exact_told"], result["outcome_accuracy_told"]) == (1 / 2, 1.0)
    assert result["state_exact_untold"] == pytest.approx(1 / 3)
    assert scores([step("hall", "hall")], 0.0)["demo_shown"] == 0.0
    assert not [key for key in scores([step("hall", "hall")], 0.0) if "told" in key or key == "demo_right"]


def test_the_train_row_takes_an_episode_a_task_and_no_other_fold() -> None:
    step = Transition("s", "a", "s", 0.0, False)
    seed_data = [
        Trajectory(f"{task}-{n}", Task(f"t{task}", "e", "go"), "expert", "real", [step] if n else [], fold=fold)
        for task, fold in [*((task, "train") for task in range(40)), (99, "dev")]
        for n in range(3)
    ]
    drawn = train_episodes(seed_data, 0)
    assert len(drawn) == len({t.task.id for t in drawn}) == EPISODES
    assert all(t.fold == "train" and t.steps for t in drawn)
    assert drawn == train_episodes(seed_data[::-1], 0) != train_episodes(seed_data, 1)
    assert len(train_episodes(seed_data[:9], 0)) == 3


def test_what_does_not_occur_has_no_precision_or_recall() -> None:
    result = scores([said("at a", 0, False, "at a", 0, False)], 0.0)
    assert not {"done_precision", "done_recall", "reward_precision", "reward_recall"} & set(result)
    assert scores([], 0.0) == {"n": 0.0}


def test_a_reward_is_right_where_it_makes_a_success_of_the_environments_as_the_real_one_does() -> None:
    """Half a purchase is no success, and neither is a reward without an end."""
    told = [
        said("bought", 0.5, True, "bought", 0.7, True),
        said("bought", 0.5, True, "bought", 1.0, True),
        said("bought", 1.0, True, "bought", 0.5, True),
        said("bought", 1.0, True, "bought", 1.0, True),
        said("at a", 1.0, False, "at a", 0.0, False),
    ]
    result = scores(told, 0.999)
    assert result["outcome_accuracy"] == pytest.approx(3 / 5)
    assert (result["reward_precision"], result["reward_recall"]) == (0.5, 0.5)
    assert scores(told, 0.0)["outcome_accuracy"] == 1.0


def test_words_count_as_often_as_they_occur() -> None:
    assert token_f1("a a b", "a b b") == pytest.approx(2 / 3)
    assert token_f1("", "a") == 0.0
