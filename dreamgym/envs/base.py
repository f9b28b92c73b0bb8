"""What an environment is: the async protocol of the loop, and the Gymnasium-style class a user writes."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

from dreamgym.config import EnvConfig
from dreamgym.errors import EnvError
from dreamgym.types import Fold, StepResult, Task, Transition

T = TypeVar("T")


class Environment(Protocol):
    """What a rollout actor talks to; the dream and every real environment implement it."""

    async def reset(self, task: Task) -> StepResult: ...

    async def step(self, action: str) -> StepResult: ...

    async def close(self) -> None: ...


@runtime_checkable
class TextEnv(Protocol):
    """A real text environment, Gymnasium-style and synchronous: the class that a user writes.

    Observations are the *abstract states* that the policy and the dream read. A class may also
    offer any of the following, each of which makes seed data better:

    - `expert_action(self) -> str`: a good next action here;
    - `valid_actions(self) -> list[str]`: actions that do something here;
    - `commands(self) -> list[str]`: actions that can be typed here, most of them not possible;
    - `reason(task, history, transition) -> str` (static): the environment's rule for reasoning R*.
    """

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        """`count` different tasks of a fold (fewer where the fold is smaller), by `seed`."""
        ...

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        """Start a task: the first state, and an info dictionary."""
        ...

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act: next state, reward, terminated, truncated, info; `info["success"]` says if it is solved."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...


REGISTRY: dict[str, str] = {
    "mapreader": "dreamgym.envs.textworld:MapReader",
    "twc": "dreamgym.envs.textworld:CommonSense",
}


def env_class(name: str) -> type:
    """The class behind a registered name or `module:Class`.

    Raises:
        EnvError: no such name, module or class, or a method is missing.
    """
    target = REGISTRY.get(name, name)
    module_name, _, class_name = target.partition(":")
    if not class_name:
        known = ", ".join(sorted(REGISTRY))
        raise EnvError(f"env.name: '{name}' is neither one of {known} nor a 'module:Class'.")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise EnvError(f"env.name: cannot load '{name}' ({error}); is its folder on PYTHONPATH?") from error
    missing = [m for m in ("tasks", "reset", "step", "close") if not callable(getattr(found, m, None))]
    if missing:
        raise EnvError(f"env.name: '{name}' has no method '{missing[0]}'; see docs/bring-your-own.md.")
    return found


def make_env(config: EnvConfig) -> TextEnv:
    """Build the real environment of a configuration.

    Raises:
        EnvError: it cannot be found or built.
    """
    found = env_class(config.name)
    try:
        return found(**config.options)
    except EnvError:
        raise
    except Exception as error:
        raise EnvError(f"env.options: '{config.name}' cannot be built with {config.options}: {error}.") from error


def rule_of(env_name: str) -> Callable[[Task, Sequence[Transition], Transition], str] | None:
    """The environment's rule for reasoning, where it has one."""
    return getattr(env_class(env_name), "reason", None)


class RealEnvironment:
    """A `TextEnv` behind the async protocol: one thread, a deadline a call, faults as `env_failed`."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="env")
        self._env: TextEnv | None = None
        self._steps = 0

    async def reset(self, task: Task) -> StepResult:
        self._steps = 0
        return await self._guarded(lambda: self._reset(task))

    async def step(self, action: str) -> StepResult:
        return await self._guarded(lambda: self._step(action))

    async def close(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            self._thread.submit(env.close)
        self._thread.shutdown(wait=False)

    def _reset(self, task: Task) -> StepResult:
        if self._env is None:
            self._env = make_env(self._config)
        state, info = self._env.reset(task)
        return StepResult(state, info=info)

    def _step(self, action: str) -> StepResult:
        if self._env is None:
            raise EnvError("step() before reset(); call reset(task) first.")
        state, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        truncated = truncated or (self._steps >= self._config.max_steps and not terminated)
        return StepResult(state, float(reward), bool(terminated), bool(truncated), info=info)

    async def _guarded(self, call: Callable[[], StepResult]) -> StepResult:
        """Run in the environment's thread; a fault or a missed deadline throws the environment away."""
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._thread, call), self._config.timeout_s)
        except EnvError:
            raise
        except Exception as error:
            self._env = None
            self._thread.shutdown(wait=False)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="env")
            return StepResult("", status="env_failed", info={"error": f"{type(error).__name__}: {error}"})


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """A uniform draw that depends on nothing but the generator."""
    return items[rng.randrange(len(items))]
