"""What happens beside a learner step: new tasks are invented and tried, and dreams knock at the buffer's gate."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dreamgym.config import RunConfig
from dreamgym.curriculum.curriculum import Curriculum
from dreamgym.errors import EngineError
from dreamgym.replay.actor import ReplayClient
from dreamgym.replay.embed import make_embedder
from dreamgym.replay.gate import WriteGate
from dreamgym.replay.records import Candidate, Outcome, from_trajectory
from dreamgym.runtime import event_loop
from dreamgym.serve.dream import WorldClient
from dreamgym.serve.experience import DreamQuery
from dreamgym.training.services import Services
from dreamgym.types import Trajectory, stable_id


class Enrichment:
    """Runs in a thread of its own beside the learner; the loop waits for it before it draws the next tasks."""

    def __init__(self, config: RunConfig, services: Services, curriculum: Curriculum) -> None:
        self._config = config
        self._dream = services.dream
        self._replay = services.replay
        self._curriculum = curriculum
        self._gate = WriteGate(config.replay, config.seed)
        self.embed = make_embedder(config.replay).embed

    def run(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """Invent tasks from the most valuable ones; offer transitions to the buffer. Returns the counts."""
        if self._dream is None:
            return {}
        return event_loop.run(self._run(trajectories, iteration))

    async def _run(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        new_tasks, buffer = await asyncio.gather(self._invent(iteration), self._store(trajectories, iteration))
        return new_tasks | buffer

    async def _invent(self, iteration: int) -> dict[str, Any]:
        """M_task varies the tasks of the highest V_tau (paper, section 4.3); what is no good is kept as such."""
        assert self._dream is not None
        if self._config.curriculum.generated_share == 0:
            return {}
        parents = self._curriculum.seed_tasks(self._config.curriculum.seeds)
        counts = {"admitted": 0, "rejected_malformed": 0, "rejected_duplicate": 0, "rejected_infeasible": 0}
        if parents:
            seed = int(stable_id(self._config.seed, "tasks", iteration), 16) & 0x7FFFFFFF
            proposals = await asyncio.wait_for(
                self._dream.tasks.propose.remote(parents, seed), 4 * self._config.world.engine.timeout_s
            )
            for p in proposals:
                if p.fault:
                    verdict = self._curriculum.reject(p.task, [p.parent], p.fault)
                else:
                    verdict = self._curriculum.admit(p.task, [p.parent], self.embed)
                counts["admitted" if verdict.admitted else f"rejected_{verdict.fate}"] += 1
        return {f"curriculum/{name}": count for name, count in counts.items()}

    async def _store(self, trajectories: Sequence[Trajectory], iteration: int) -> dict[str, Any]:
        """A share of the dreamed transitions is asked again and offered."""
        if self._replay is None:
            return {}
        assert self._dream is not None
        version = f"{self._config.name}-seed{self._config.seed}/{self._dream.model.name}"
        offered = [t for t in trajectories if t.world == "dream" and self._gate.is_offered(t.id)]
        candidates = [Candidate(item, t.status) for t in offered for item in from_trajectory(t, version)]
        tasks = {t.id: t for t in offered}
        if candidates and self._config.replay.consistency:
            verdicts = await self._replay.screen(candidates)
            worthy = [c for c, v in zip(candidates, verdicts, strict=True) if v.admitted]
            candidates = list(await asyncio.gather(*(_asked_again(c, tasks, self._dream.world) for c in worthy)))
        if candidates:
            await self._replay.offer(candidates)
        return await _counts(self._replay)


async def _asked_again(candidate: Candidate, episodes: dict[str, Trajectory], world: WorldClient) -> Candidate:
    """The same step dreamed afresh from its state alone; the nearest demonstration stays, as it may say no."""
    item = candidate.item
    episode = episodes[item.trajectory_id]
    before = tuple(step for step in episode.steps[: item.step] if not step.malformed)
    seed = int(stable_id(item.id, "again"), 16) & 0x7FFFFFFF
    query = DreamQuery(
        episode.task, [], item.state, item.action, seed, skip_demos=1, trajectory=item.trajectory_id, history=before
    )
    try:
        answer = await world.step(query)
    except EngineError:  # a replica died under it: the gate refuses what has no second answer
        return candidate
    again = None if answer.error or answer.context_full else Outcome(round(answer.reward, 4), answer.done)
    return Candidate(item, candidate.status, again)


async def _counts(replay: ReplayClient) -> dict[str, Any]:
    stats = await replay.stats()
    counts: dict[str, Any] = {"replay/real": stats.real, "replay/dream": stats.dream, "replay/pruned": stats.pruned}
    return counts | {f"replay/refused_{reason}": n for reason, n in stats.refused.items()}
