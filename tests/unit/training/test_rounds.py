"""Dream, correct, dream: which iterations are real, and how much of the budget each may take."""

from __future__ import annotations

import pytest

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError
from dreamgym.training.rounds import Rounds
from dreamgym.training.shared import check_budget


def config(**real: object) -> RunConfig:
    return RunConfig.model_validate({"real": real, "env": {"max_steps": 10}, "train": {"group_size": 4}})


def test_each_round_is_a_real_iteration_and_then_dreamed_ones() -> None:
    rounds = Rounds.of(config(transitions=300, use="dream", rounds=3, dream_iterations=2), first=30)
    assert "".join("R" if rounds.is_real(i) else "d" for i in range(30, rounds.end)) == "RddRddRdd"
    assert (rounds.group, rounds.updates) == (1, False)
    both = Rounds.of(config(transitions=300, use="both"), first=30)
    assert (both.group, both.updates) == (4, True)


def test_what_a_round_leaves_goes_to_the_later_ones_and_the_budget_is_never_passed() -> None:
    rounds = Rounds.of(config(transitions=300, use="dream", rounds=3, dream_iterations=2), first=30)
    learned, taken = 0, []
    for iteration in (30, 33, 36):
        taken.append(rounds.room(iteration, learned))
        learned += taken[-1] - 7  # as episodes that end early leave it
    assert taken == [100, 103, 111] and learned < 300
    assert rounds.room(36, 300) == 0


@pytest.mark.parametrize(
    ("use", "enough", "words"),
    [("updates", 40, "has no room for a group"), ("both", 80, "a group a round"), ("dream", 20, "an episode a round")],
)
def test_a_budget_without_room_for_every_round_is_refused(use: str, enough: int, words: str) -> None:
    check_budget(config(transitions=enough, use=use, rounds=2))
    with pytest.raises(ConfigError, match=rf"{words}.*= {enough} transitions"):
        check_budget(config(transitions=enough - 1, use=use, rounds=2))
