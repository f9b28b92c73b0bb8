"""The task generator M_task: harder variations of half-solved tasks, each tried in a quick dream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamgym.config import RunConfig
from dreamgym.envs.base import success_above
from dreamgym.errors import EngineError
from dreamgym.models.prompts import ParseError, changed_lines, last_line, parse_variation, vary_message
from dreamgym.replay.actor import ReplayClient
from dreamgym.serve.dream import WorldClient
from dreamgym.serve.experience import DreamQuery, WriteQuery
from dreamgym.types import Task, stable_id


@dataclass(frozen=True, slots=True)
class Proposal:
    """A new task and the task that it varies; `fault` says why it could not be read, or failed its quick dream."""

    task: Task
    parent: Task
    fault: str = ""


class TaskGenerator:
    """Shares the experience model's weights (paper, section 4.3), so it is a client of its replicas."""

    def __init__(self, world: object, config: RunConfig, replay: ReplayClient | None) -> None:
        self._world = WorldClient(world, config.world)
        self._steps = config.curriculum.feasibility_steps
        self._success_above = success_above(config.env)
        self._replay = replay

    async def propose(self, parents: Sequence[Task], seed: int) -> list[Proposal]:
        """One variation of each parent, whether or not it turned out well."""
        return list(await asyncio.gather(*(self._vary(p, int(stable_id(seed, p.id), 16)) for p in parents)))

    async def _vary(self, parent: Task, seed: int) -> Proposal:
        try:
            written = parse_variation(await self._world.write(WriteQuery(vary_message(parent), seed)), parent)
        except (EngineError, ParseError) as error:
            return Proposal(_task(parent, "", "", seed), parent, str(error))
        task = _task(parent, *written, seed)
        return Proposal(task, parent, await self._quick_dream(task, seed))

    async def _quick_dream(self, task: Task, seed: int) -> str:
        """Try actions that worked in similar states; a task is feasible if the dream answers and something changes."""
        actions = await self._actions(task.first_state)
        query = DreamQuery(task, [], task.first_state, "", seed)
        changes = 0
        for action in actions:
            query = replace(query, action=action, seed=seed + 1 + changes)
            try:
                answer = await self._world.step(query)
            except EngineError as error:
                return str(error)
            if answer.error:
                return answer.error
            if answer.done:
                return "" if answer.solved(self._success_above) else "it ends at once without success"
            changes += bool(changed_lines(query.state, answer.state))
            history = (*query.history, query.then(answer))
            query = replace(query, transcript=answer.transcript, state=answer.state, history=history)
        return "" if changes or not actions else "no action changes its state"

    async def _actions(self, state: str) -> list[str]:
        if self._replay is None or self._steps == 0:
            return []
        (demos,) = await self._replay.search([(last_line(state), "")], 8 * self._steps)
        changing = [d.action for d in demos if changed_lines(d.state, d.next_state)]
        return list(dict.fromkeys(changing))[: self._steps]


def _task(parent: Task, instruction: str, first_state: str, seed: int) -> Task:
    return Task(
        id=stable_id("generated", instruction, first_state, seed),
        env=parent.env,
        instruction=instruction,
        first_state=first_state,
        origin="generated",
        parent_ids=(parent.id, *parent.parent_ids),
    )
