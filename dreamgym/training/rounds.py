"""Dream, correct, dream: when a training in the dream takes real steps, and how many."""

from __future__ import annotations

from dataclasses import dataclass

from dreamgym.config import RunConfig


@dataclass(frozen=True, slots=True)
class Rounds:
    """Each of `rounds` is one real iteration, which corrects the dream, and `dreams` iterations in the dream.

    first      the number of the first iteration
    budget     real transitions of all rounds together
    group      real episodes a task
    updates    whether the policy learns from them too
    """

    first: int
    rounds: int
    dreams: int
    budget: int
    group: int
    updates: bool

    @classmethod
    def of(cls, config: RunConfig, first: int) -> Rounds:
        """What the section `real` says; without updates every task is played once, so that more tasks are seen."""
        updates, real = config.real.use == "both", config.real
        group = config.train.group_size if updates else 1
        return cls(first, real.rounds, real.dream_iterations, real.transitions, group, updates)

    @property
    def end(self) -> int:
        """The number of the iteration after the last."""
        return self.first + self.rounds * (1 + self.dreams)

    def is_real(self, iteration: int) -> bool:
        """Whether an iteration plays in the real environment."""
        return (iteration - self.first) % (1 + self.dreams) == 0

    def room(self, iteration: int, learned: int) -> int:
        """How many transitions a real iteration may take, after so many that were learned from: an equal part."""
        round_ = (iteration - self.first) // (1 + self.dreams)
        return (self.budget - learned) // (self.rounds - round_)
