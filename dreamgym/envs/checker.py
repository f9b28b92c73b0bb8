"""A task's own checker: a rule of the environment over its states that says what a dreamed step comes to.

As the checkers of EigenData do, it takes the place of the model's word on reward and end (`world.outcome`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.envs.base import env_class
from dreamgym.errors import ConfigError, EnvError
from dreamgym.types import Task, Transition

Checker = Callable[[Task, Sequence[Transition], Transition], tuple[float, bool]]
"""(task, all that was done before, a dreamed step with the model's own word) -> reward, done."""


def checker_of(config: RunConfig) -> Checker | None:
    """The static `check(task, history, transition)` of the environment's class; None with `world.outcome=model`.

    The rule that is returned raises EnvError where the environment's own raises, or gives no finite reward and done.

    Raises:
        ConfigError: the environment has no such rule.
    """
    if config.world.outcome == "model":
        return None
    name = config.env.name
    rule = getattr(env_class(name), "check", None)
    if rule is None:
        raise ConfigError(f"world.outcome: '{name}' has no rule check(); set world.outcome to model.")
    return partial(_checked, f"env.name: check() of '{name}'", rule)


def _checked(
    where: str, rule: Callable[..., object], task: Task, history: Sequence[Transition], step: Transition
) -> tuple[float, bool]:
    try:
        given: Any = rule(task, history, step)
        reward, done = given
        reward = float(reward)
    except Exception as error:
        raise EnvError(f"{where} failed ({type(error).__name__}: {error}); mend it.") from error
    if not math.isfinite(reward) or not isinstance(done, bool):
        raise EnvError(f"{where} gave ({reward}, {done!r}), not a finite reward and whether it ends; mend it.")
    return reward, done
