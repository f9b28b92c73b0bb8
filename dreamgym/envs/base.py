"""What an environment is: the async protocol of the loop, and the Gymnasium-style class a user writes."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import math
import os
import queue
import random
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from dreamgym.config import EnvConfig
from dreamgym.errors import EnvError
from dreamgym.models.answers.calls import Tool, check_tools
from dreamgym.models.conversation import LineRule
from dreamgym.types import MAX_TEXT, Edit, Fold, StepResult, Task, Transition, is_success

T = TypeVar("T")
VariationRule = Callable[[Task, random.Random], Sequence[Edit]]
log = logging.getLogger(__name__)


class Environment(Protocol):
    """What a rollout actor talks to; the dream and every real environment implement it."""

    async def reset(self, task: Task) -> StepResult: ...

    async def step(self, action: str) -> StepResult: ...

    async def skip(self) -> StepResult:
        """A step in which nothing is done: it counts, and the state stays."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class TextEnv(Protocol):
    """A real text environment, Gymnasium-style and synchronous: the class that a user writes.

    Observations are the *abstract states* that the policy and the dream read. A class may also
    offer any of the following, each of which makes seed data better:

    - `expert_action(self) -> str`: a good next action here;
    - `valid_actions(self) -> list[str]`: actions that do something here;
    - `commands(self) -> list[str]`: actions that can be typed here, most of them not possible;
    - `tools`: the functions that it offers, `{"name", "description", "parameters"}` each, the last a JSON Schema of
      type object; actions are then calls as JSON, `{"name": "go", "arguments": {"to": "attic"}}` (`read_call` reads
      them), and one of the agent that does not fit its schema never reaches `step`;
    - `remark`: what `dreamgym doctor` is to say of it beside whether it can be played;
    - `success_above`: an end with a reward above this number is a success, where `info` does not say (0.0);
    - `reason(task, history, transition) -> str` (static): the environment's rule for reasoning R*;
    - `think(task, history, action) -> str` (static): its rule for what an expert thinks before this action;
    - `line(transition) -> str` (static): its rule for the line that stands for an earlier turn (`policy.context`);
    - `check(task, history, transition) -> (reward, done)` (static): its rule for what a dreamed step comes to
      (`world.outcome`, see `envs/checker.py`);
    - `vary(task, rng) -> list[Edit]` (static): its rule for a variation of a task, as edits of the task's text, for
      a task generator that is too small to know one; empty where this task has none.
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
    "alfworld": "dreamgym.envs.alfworld:AlfWorld",
    "browsergym": "dreamgym.envs.web.env:BrowserGym",
    "browsergym-tools": "dreamgym.envs.web.env:BrowserGymTools",
    "coin": "dreamgym.envs.coin:Coin",
    "cookingworld": "dreamgym.envs.cookingworld:CookingWorld",
    "mapreader": "dreamgym.envs.mapreader:MapReader",
    "scienceworld": "dreamgym.envs.scienceworld:ScienceWorld",
    "twc": "dreamgym.envs.twc:CommonSense",
    "webshop": "dreamgym.envs.webshop:WebShop",
}


def env_class(name: str) -> type:
    """The class behind a registered name or `module:Class`, which may lie in the working directory.

    Raises:
        EnvError: no such name, module or class, or a method is missing.
    """
    target = REGISTRY.get(name, name)
    module_name, _, class_name = target.partition(":")
    if not class_name:
        known = ", ".join(sorted(REGISTRY))
        raise EnvError(f"env.name: '{name}' is neither one of {known} nor a 'module:Class'.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        raise EnvError(
            f"env.name: cannot load '{name}' ({type(error).__name__}: {error}); is its folder on PYTHONPATH?"
        ) from error
    missing = [m for m in ("tasks", "reset", "step", "close") if not callable(getattr(found, m, None))]
    if missing:
        raise EnvError(f"env.name: '{name}' has no method '{missing[0]}'; see docs/how-to/own-environment.md.")
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
        raise EnvError(
            f"env.options: '{config.name}' cannot be built with {', '.join(config.options) or 'none'}: {error}."
        ) from error


def rule_of(env_name: str) -> Callable[[Task, Sequence[Transition], Transition], str] | None:
    """The environment's rule for reasoning, where it has one."""
    return getattr(env_class(env_name), "reason", None)


def thought_rule(env_name: str) -> Callable[[Task, Sequence[Transition], str], str] | None:
    """The environment's rule for what an expert thinks before it acts, where it has one."""
    return getattr(env_class(env_name), "think", None)


def env_tools(env_name: str) -> tuple[Tool, ...]:
    """The tools that the environment's class offers, of the form that `Tool` tells; none where it offers none.

    Raises:
        EnvError: one of them is not of that form.
    """
    return check_tools(getattr(env_class(env_name), "tools", ()), f"env.name: '{env_name}'")


def line_rule(env_name: str) -> LineRule | None:
    """The environment's rule for the line that stands for an earlier turn, where it has one.

    The rule that is returned raises EnvError where the environment's own raises or gives no text.
    """
    rule = getattr(env_class(env_name), "line", None)
    return None if rule is None else partial(told_by, f"env.name: line() of '{env_name}'", rule)


def told_by(where: str, rule: Callable[..., object], *about: object) -> str:
    """What a rule of the user's class says; an EnvError where it fails."""
    try:
        told = rule(*about)
    except Exception as error:
        raise EnvError(f"{where} failed ({type(error).__name__}: {error}); mend it.") from error
    if not isinstance(told, str):
        raise EnvError(f"{where} gave {type(told).__name__}, not text; mend it.")
    return told


def variation_rule(env_name: str) -> VariationRule | None:
    """The environment's rule for varying a task, where it has one."""
    return getattr(env_class(env_name), "vary", None)


def start(env: TextEnv, task: Task) -> StepResult:
    """Reset, and hold the environment to its contract (TypeError or ValueError where it breaks it)."""
    state, info = env.reset(task)
    return StepResult(_text(state), info=dict(info))


def success_above(config: EnvConfig) -> float:
    """The reward above which an end is a success where nothing says so: as configured, else as the class has it."""
    own = getattr(env_class(config.name), "success_above", 0.0)
    return float(own if config.success_above is None else config.success_above)


def act(env: TextEnv, action: str, above: float | None = None) -> StepResult:
    """Step, and hold the environment to its contract (TypeError or ValueError where it breaks it).

    Where the environment does not say, an end with a reward above `above` is a success; see `success_above`.
    """
    state, reward, terminated, truncated, info = env.step(action)
    if not math.isfinite(reward):
        raise ValueError(f"the reward is {reward}, not a finite number")
    above = getattr(env, "success_above", 0.0) if above is None else above
    info = {"success": is_success(reward, bool(terminated), above)} | dict(info)
    return StepResult(_text(state), float(reward), bool(terminated), bool(truncated), info=info)


def _text(state: object) -> str:
    if not isinstance(state, str):
        raise TypeError(f"a state must be text, not {type(state).__name__}")
    if len(state) > MAX_TEXT:
        raise ValueError(f"a state has {len(state):,} characters, more than {MAX_TEXT:,}")
    state.encode()  # half a character cannot be kept: a UnicodeEncodeError, which is a ValueError
    return state


class EnvFault(Exception):
    """A real environment crashed or missed its deadline; what it was doing is no experience."""


class _Seat:
    """One environment and the daemon thread that alone touches it, so a stuck call never holds up the exit."""

    def __init__(self, config: EnvConfig, again: bool) -> None:
        """`again`: one was built before, so that where this one cannot be, the fault is of the moment."""
        self._config, self._again = config, again
        self._env: TextEnv | None = None
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[TextEnv], Any]] | None] = queue.SimpleQueue()
        self.closed: Future[None] = Future()
        threading.Thread(target=self._serve, name="env", daemon=True).start()

    def submit(self, call: Callable[[TextEnv], T]) -> Future[T]:
        future: Future[T] = Future()
        self._calls.put((future, call))
        return future

    def retire(self) -> None:
        """Close the environment as soon as the present call is over."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._env is None:
                    self._env = self._made()
                future.set_result(call(self._env))
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the user's code may raise anything; the caller gets it
                future.set_exception(error)
        self._close()

    def _made(self) -> TextEnv:
        try:
            return make_env(self._config)
        except EnvError as error:
            if self._again:
                raise EnvFault(str(error)) from error
            raise

    def _close(self) -> None:
        try:
            if self._env is not None:
                self._env.close()
        except Exception as error:  # noqa: BLE001 - nobody waits for the outcome, so it is logged
            log.warning("closing %s failed: %s: %s", self._config.name, type(error).__name__, error)
        self.closed.set_result(None)


class RealEnvironment:
    """A `TextEnv` behind the async protocol: one thread, a deadline a call, faults as `env_failed`."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        self._seat: _Seat | None = None
        self._playing = self._built = False
        self._state = ""
        self.steps = 0
        """Transitions since the last reset."""

    async def reset(self, task: Task) -> StepResult:
        """Start a task, in a fresh environment where the last one failed."""
        self.steps = 0
        try:
            result = await self.call(lambda env: start(env, task))
        except EnvFault as fault:
            return StepResult("", status="env_failed", info={"error": str(fault)})
        self._playing, self._state = True, result.observation
        return result

    async def step(self, action: str) -> StepResult:
        """Act; `truncated` at the latest after `max_steps` actions.

        Raises:
            EnvError: no task was started, or the last call failed.
        """
        if not self._playing:
            raise EnvError("step() before reset(); call reset(task) first.")
        try:
            result = await self.call(lambda env: act(env, action, self._config.success_above))
        except EnvFault as fault:
            return StepResult("", status="env_failed", info={"error": str(fault)})
        self._state = result.observation
        return self._counted(result)

    async def skip(self) -> StepResult:
        """Let a step pass; the environment is not asked."""
        return self._counted(StepResult(self._state))

    def _counted(self, result: StepResult) -> StepResult:
        self.steps += 1
        late = self.steps >= self._config.max_steps and not result.terminated
        return replace(result, truncated=True) if late else result

    async def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        """The tasks of a fold; listing them may take ten times the deadline of a step.

        Raises:
            EnvError: they cannot be listed, there are none, or two have the same id.
        """
        try:
            found = await self.call(lambda env: list(env.tasks(fold, count, seed)), 10 * self._config.timeout_s)
        except EnvFault as fault:
            raise EnvError(f"env.name: '{self._config.name}' cannot list its {fold} tasks ({fault}).") from fault
        if not found:
            raise EnvError(f"env.name: '{self._config.name}' has no task in its {fold} fold.")
        if len({task.id for task in found}) < len(found):
            raise EnvError(f"env.name: '{self._config.name}' gives two {fold} tasks the same id; make the ids unique.")
        return found

    async def call(self, call: Callable[[TextEnv], T], timeout_s: float = 0.0) -> T:
        """Run `call` in the environment's own thread, by default under `env.timeout_s` seconds.

        Raises:
            EnvFault: it raised or was late; the environment is thrown away and the next call builds a fresh one.
            EnvError: the environment cannot be built, and never was.
        """
        if self._seat is None:
            self._seat = _Seat(self._config, self._built)
        limit = timeout_s or self._config.timeout_s
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(self._seat.submit(call)), limit)
            self._built = True
            return answer
        except (asyncio.CancelledError, EnvError):
            self._retire()
            raise
        except TimeoutError as error:
            self._retire()
            raise EnvFault(str(error) or f"no answer within {limit:g} s") from error
        except (Exception, SystemExit) as error:
            self._retire()
            raise EnvFault(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close the environment; one that does not answer is left behind after the deadline."""
        seat = self._retire()
        if seat is not None:
            await asyncio.wait([asyncio.wrap_future(seat.closed)], timeout=self._config.timeout_s)

    def _retire(self) -> _Seat | None:
        seat, self._seat, self._playing = self._seat, None, False
        if seat is not None:
            seat.retire()
        return seat


def payload_fields(payload: str, *names: str) -> list[Any]:
    """The named fields of a task's payload, which is JSON.

    Raises:
        EnvError: it is no JSON, or has not all of them.
    """
    try:
        fields = json.loads(payload)
        return [fields[name] for name in names]
    except (ValueError, TypeError, KeyError) as error:
        raise EnvError(
            f"task.payload: '{payload}' must be JSON with {' and '.join(names)}; only real tasks have one."
        ) from error


def next_on_path(path: Sequence[str], taken: Sequence[str]) -> str:
    """The next action of a gold path; empty once the agent has left it, or at its end."""
    n = len(taken)
    return path[n] if taken == path[:n] and n < len(path) else ""


def pick(rng: random.Random, items: Sequence[T]) -> T:
    """A uniform draw that depends on nothing but the generator."""
    return items[rng.randrange(len(items))]
