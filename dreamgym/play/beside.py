"""What the real environment says to the same actions: it plays along, and begins anew where somebody stepped back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dreamgym.config import EnvConfig
from dreamgym.envs.base import RealEnvironment
from dreamgym.errors import EnvError
from dreamgym.types import StepResult, Task, Transition


@dataclass(slots=True)
class RealSide:
    """A real episode: its steps, which are fewer than the actions where it ended before, and why there are no more."""

    first_state: str = ""
    steps: list[Transition] = field(default_factory=list)
    error: str = ""


class Beside:
    """The real environment of a run, started when it is first asked; one episode at a time."""

    def __init__(self, config: EnvConfig) -> None:
        self._env = RealEnvironment(config)
        self._lock = asyncio.Lock()
        self._known: dict[tuple[str, ...], StepResult] = {}
        self._at: tuple[str, ...] | None = None
        """The task and the actions that the environment stands behind; None where it is not known."""

    async def along(self, task: Task, actions: list[str]) -> RealSide:
        """The real episode of some actions; `error` says in a sentence why the environment cannot play it."""
        if task.origin == "generated":
            return RealSide(error="this task was invented: only a dream can play it.")
        async with self._lock:
            side = RealSide()
            try:
                result = await self._answer(task, (task.id,))
                side.first_state = state = result.observation
                for count, action in enumerate(actions, 1):
                    if result.status != "ok" or result.done:
                        break
                    result = await self._answer(task, (task.id, *actions[:count]))
                    if result.status == "ok":
                        valid = bool(result.info.get("valid", True))
                        told = (result.observation, result.reward, result.terminated)
                        side.steps.append(Transition(state, action, *told, valid=valid))
                        state = result.observation
            except EnvError as error:
                side.error = str(error)
            else:
                side.error = str(result.info.get("error", "it failed")) if result.status != "ok" else ""
            return side

    async def _answer(self, task: Task, path: tuple[str, ...]) -> StepResult:
        """What followed the last action of a path, after all before it."""
        if path not in self._known:
            if len(path) == 1 or self._at != path[:-1]:
                result, done = await self._env.reset(task), 1
                while result.status == "ok" and done < len(path):
                    result, done = await self._env.step(path[done]), done + 1
                    self._check(path[:done], result)
            else:
                result = await self._env.step(path[-1])
            self._at = path if result.status == "ok" else None
            if result.status != "ok":
                return result
            self._known[path] = result
        return self._known[path]

    def _check(self, path: tuple[str, ...], again: StepResult) -> None:
        """Raise EnvError where an action that was taken once more has another answer than before."""
        known = self._known.get(path, again)
        if again.status == "ok" and known.observation != again.observation:
            self._at = None
            raise EnvError(
                "the real environment answers the same actions now so, now so; what it would have said is not known."
            )

    async def close(self) -> None:
        """End the environment."""
        await self._env.close()
