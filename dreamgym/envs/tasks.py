"""Lists the tasks of a fold of the real environment, for those who only need the list."""

from __future__ import annotations

from dreamgym.config import EnvConfig
from dreamgym.envs.base import RealEnvironment
from dreamgym.runtime import event_loop
from dreamgym.types import Fold, Task


def fold_tasks(config: EnvConfig, fold: Fold, count: int, seed: int) -> list[Task]:
    """`count` tasks of a fold; see `RealEnvironment.tasks` for what it raises."""

    async def listed() -> list[Task]:
        env = RealEnvironment(config)
        try:
            return await env.tasks(fold, count, seed)
        finally:
            await env.close()

    return event_loop.run(listed())
