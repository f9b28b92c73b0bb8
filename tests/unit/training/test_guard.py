"""The early end: only where it is asked for, clear from what was played, and over the last evaluations together."""

from __future__ import annotations

from typing import Any

from dreamgym.config import TrainConfig
from dreamgym.training.guard import stop_reason

CONFIG = TrainConfig(min_kept=0.5, kept_window=2)


def evaluation(wins: int, kept: int) -> dict[str, Any]:
    return {"kind": "eval", "iteration": 0, "again/wins": float(wins), **({"again/kept": kept / wins} if wins else {})}


def test_a_dream_whose_wins_are_not_won_for_real_ends_the_training() -> None:
    told = stop_reason([evaluation(40, 10), evaluation(60, 12)], CONFIG)
    assert told.startswith("22 of 100 won dreams were won for real in the last 2 evaluations")
    assert "train.min_kept=0.5" in told


def test_what_is_as_true_as_it_should_be_goes_on() -> None:
    assert stop_reason([evaluation(40, 30), evaluation(60, 50)], CONFIG) == ""


def test_few_wins_are_not_held_against_it() -> None:
    assert stop_reason([evaluation(2, 0), evaluation(1, 0)], CONFIG) == ""
    assert stop_reason([evaluation(0, 0), evaluation(0, 0)], CONFIG) == ""


def test_only_the_last_evaluations_count_and_all_of_them_together() -> None:
    bad, good = evaluation(60, 6), evaluation(60, 60)
    assert stop_reason([bad], CONFIG) == ""
    assert stop_reason([bad, good], CONFIG) == ""
    assert stop_reason([good, bad, bad], CONFIG) != ""
    assert stop_reason([bad, bad, good, good], CONFIG) == ""


def test_records_without_dreams_played_again_are_passed_over() -> None:
    others = [{"kind": "eval", "iteration": 0, "real/success": 0.1}, {"kind": "iteration", "iteration": 1}]
    assert stop_reason([evaluation(60, 6), *others, evaluation(60, 6), *others], CONFIG) != ""


def test_without_a_floor_nothing_ends_early() -> None:
    assert stop_reason([evaluation(60, 0), evaluation(60, 0)], TrainConfig()) == ""
