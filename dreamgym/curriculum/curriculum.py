"""Task selection: half-solved tasks more often, at most a share lambda of invented ones, nothing forgotten."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dreamgym.config import CurriculumConfig
from dreamgym.curriculum.value import task_value
from dreamgym.errors import DataError
from dreamgym.types import Task

Fate = Literal["active", "retired", "malformed", "duplicate", "infeasible"]
Embed = Callable[[Sequence[str]], np.ndarray]
_OPTIMISM = 0.25
_FLAT_GROUPS = 2


@dataclass(frozen=True, slots=True)
class TaskVerdict:
    """Whether a generated task entered the curriculum, and why not."""

    admitted: bool
    fate: Fate
    detail: str = ""


@dataclass(slots=True)
class _Seen:
    """What is known of a visited task: its last V_tau, when, and how many groups in a row were flat."""

    value: float
    iteration: int
    flat: int


@dataclass(slots=True)
class _Generated:
    """An invented task, kept for ever with its parents and what became of it."""

    task: Task
    fate: Fate
    detail: str


class Curriculum:
    """Draws the tasks of every iteration; the same seed and the same records give the same draws."""

    def __init__(self, tasks: Sequence[Task], config: CurriculumConfig, seed: int) -> None:
        """Begin with the real training tasks.

        Raises:
            DataError: there is none, or two share an id.
        """
        if not tasks:
            raise DataError("curriculum: there is no training task; collect trajectories of the train fold first.")
        self._real = {task.id: task for task in tasks}
        if len(self._real) != len(tasks):
            raise DataError("curriculum: two training tasks share an id; give every task its own.")
        self._config = config
        self._seed = seed
        self._draws = 0
        self._seen: dict[str, _Seen] = {}
        self._seeded: dict[str, int] = {}
        self._generated: list[_Generated] = []
        self._vectors: dict[str, np.ndarray] = {}
        self._rewards: dict[str, list[float]] = {}

    def next_tasks(self, n: int, without: Collection[str] = (), invented: bool = True) -> list[Task]:
        """Tasks to play next, all different and none `without` (by id); at most the share lambda of them generated.

        None is generated where `invented` is False.

        Of the real ones a share `focus` is drawn by value (V_tau last seen; one never visited counts as
        much as the best can), the rest uniformly. Fewer than `n` come where there are fewer tasks.
        """
        rng = self._next_rng()
        share = self._config.generated_share if invented else 0.0
        generated = [g.task.id for g in self._generated if g.fate == "active" and g.task.id not in without]
        real = [task_id for task_id in self._real if task_id not in without]
        n_invented = min(_floor(share * n), len(generated))
        n_real = min(n - n_invented, len(real))
        if n_invented + n_real < n and share < 1:
            n_invented = min(n_invented, _floor(share / (1 - share) * n_real))
        focused = self._draw_by_value(rng, real, round(self._config.focus * n_real))
        rest = sorted(set(real) - set(focused))
        uniform = [rest[i] for i in rng.permutation(len(rest))[: n_real - len(focused)]]
        chosen = focused + uniform + self._draw_by_value(rng, generated, n_invented)
        return [self.task(task_id) for task_id in chosen]

    def next_tasks_of(
        self, state: dict[str, Any], n: int, without: Collection[str] = (), invented: bool = True
    ) -> list[Task]:
        """What `next_tasks` drew in an earlier `state()`; then it is as it was after that, or now if that is later.

        Later is what more draws have been made of: a checkpoint knows what a batch taught that was drawn before it.

        Raises:
            DataError: see `load_state`.
        """
        now = self.state()
        self.load_state(state)
        tasks = self.next_tasks(n, without, invented)
        if now["draws"] >= self._draws:
            self.load_state(now)
        return tasks

    def record(self, task_id: str, rewards: Sequence[float], iteration: int, progress: Sequence[float] = ()) -> float:
        """Take in a rollout group and return its V_tau; a generated task that stays flat retires.

        Args:
            rewards: of the group's episodes that did not fail (or of its cluster, see `clusters`); where none is
                left, nothing is learned of a real task, and a generated one counts a flat group.
            progress: how far the group's episodes came (see `Progress`); `curriculum.progress` weighs its variance.

        Raises:
            ValueError: the task is unknown, or a reward is not finite.
        """
        self.task(task_id)
        before = self._seen.get(task_id)
        if not rewards and task_id in self._real:
            return before.value if before else 0.0
        value = task_value(rewards) if rewards else 0.0
        if progress and self._config.progress:
            value += self._config.progress * task_value(progress)
        flat = 0 if value > 0 else (before.flat if before else 0) + 1
        self._seen[task_id] = _Seen(value, iteration, flat)
        if flat >= _FLAT_GROUPS and task_id not in self._real:
            found = self._find(task_id)
            found.fate, found.detail = "retired", f"{flat} groups in a row without variance"
        return value

    def clusters(self, groups: Mapping[str, Sequence[float]], embed: Embed) -> dict[str, list[float]]:
        """Each group's rewards, and those last seen of the `curriculum.neighbours` visited tasks most like its own.

        V_tau is then that of the task's embedding cluster, for episodes that come without a group (PPO). A group
        without a reward stays so.

        Args:
            groups: task id to rewards, of one iteration; all of them count as seen.
            embed: see `admit`.
        """
        if not self._config.neighbours:
            return {task_id: list(rewards) for task_id, rewards in groups.items()}
        self._rewards |= {task_id: list(rewards) for task_id, rewards in groups.items() if rewards}
        self._embed([self.task(task_id) for task_id in self._rewards], embed)
        return {task_id: [*rewards, *(self._around(task_id) if rewards else ())] for task_id, rewards in groups.items()}

    def task(self, task_id: str) -> Task:
        """A real task, or an invented one that was admitted; raises ValueError where it is neither."""
        return self._real.get(task_id) or self._find(task_id).task

    def value(self, task_id: str) -> float | None:
        """V_tau as last seen; None where the task was never visited."""
        seen = self._seen.get(task_id)
        return seen.value if seen else None

    def seed_tasks(self, k: int) -> list[Task]:
        """The at most k tasks of highest V_tau (above 0), to be varied by the task generator.

        Among equals those that seeded least go first, then those visited last; each call counts as a use.
        """
        retired = {g.task.id for g in self._generated if g.fate != "active"}
        worthy = [(task_id, seen) for task_id, seen in self._seen.items() if seen.value > 0 and task_id not in retired]
        worthy.sort(key=lambda pair: (-pair[1].value, self._seeded.get(pair[0], 0), -pair[1].iteration, pair[0]))
        chosen = [task_id for task_id, _ in worthy[:k]]
        for task_id in chosen:
            self._seeded[task_id] = self._seeded.get(task_id, 0) + 1
        return [self.task(task_id) for task_id in chosen]

    def admit(self, candidate: Task, parents: Sequence[Task], embed: Embed) -> TaskVerdict:
        """Let a generated task in, unless it is malformed or a duplicate of one that is known or was.

        Args:
            parents: the tasks it was made from; kept with it.
            embed: (n,) texts to (n, dim) unit vectors, the same function in every call.
        """
        fault = self._malformed(candidate, parents)
        if fault:
            return self._keep(candidate, parents, "malformed", fault)
        twin, cosine = self._nearest(candidate, embed)
        if cosine >= self._config.similarity - 1e-6:
            self._vectors.pop(candidate.id)
            return self._keep(candidate, parents, "duplicate", f"cosine {cosine:.4f} to {twin}")
        return self._keep(candidate, parents, "active", "")

    def reject(self, candidate: Task, parents: Sequence[Task], detail: str) -> TaskVerdict:
        """Keep the record of a candidate that has no first state or failed its quick dream; it is never drawn."""
        return self._keep(candidate, parents, "infeasible" if candidate.first_state else "malformed", detail)

    def fates(self) -> list[dict[str, Any]]:
        """Every task ever generated, oldest first: id, instruction, first_state, parents, fate, detail, value."""
        return [
            {
                "id": g.task.id,
                "instruction": g.task.instruction,
                "first_state": g.task.first_state,
                "parents": list(g.task.parent_ids),
                "fate": g.fate,
                "detail": g.detail,
                "value": self.value(g.task.id),
            }
            for g in self._generated
        ]

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, as JSON."""
        return {
            "seed": self._seed,
            "draws": self._draws,
            "seen": {task_id: dataclasses.asdict(seen) for task_id, seen in self._seen.items()},
            "seeded": dict(self._seeded),
            "rewards": {task_id: list(rewards) for task_id, rewards in self._rewards.items()},
            "generated": [
                {"task": {**dataclasses.asdict(g.task), "parent_ids": list(g.task.parent_ids)}}
                | {"fate": g.fate, "detail": g.detail}
                for g in self._generated
            ],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Become what `state()` said; the real tasks must be the same.

        Raises:
            DataError: the state knows a real task that is not here.
        """
        generated = [
            _Generated(Task(**{**g["task"], "parent_ids": tuple(g["task"]["parent_ids"])}), g["fate"], g["detail"])
            for g in state["generated"]
        ]
        known = self._real.keys() | {g.task.id for g in generated}
        if missing := sorted(set(state["seen"]) - known):
            raise DataError(
                f"curriculum: the checkpoint knows task '{missing[0]}', which is not among the training tasks; "
                "resume with the same seed data."
            )
        self._seed, self._draws = int(state["seed"]), int(state["draws"])
        self._seen = {task_id: _Seen(**seen) for task_id, seen in state["seen"].items()}
        self._seeded = dict(state["seeded"])
        self._rewards = {task_id: list(rewards) for task_id, rewards in state["rewards"].items()}
        self._generated = generated
        self._vectors = {}

    def take_over(self, state: dict[str, Any]) -> None:
        """Know what the `state()` of another run says of the real tasks, and draw on from there; no invented task."""
        self._draws = int(state["draws"])
        self._seen = {i: _Seen(**seen) for i, seen in state["seen"].items() if i in self._real}
        self._rewards = {i: list(rewards) for i, rewards in state["rewards"].items() if i in self._real}

    def _next_rng(self) -> np.random.Generator:
        """A generator that depends on the seed and on how many draws there were: resuming needs no more."""
        self._draws += 1
        return np.random.default_rng([self._seed, self._draws])

    def _draw_by_value(self, rng: np.random.Generator, ids: list[str], n: int) -> list[str]:
        """At most n ids without replacement, in proportion to their value; flat ones only as a last resort."""
        optimism = max([_OPTIMISM, *(seen.value for seen in self._seen.values())])
        weights = np.asarray([self._seen[i].value if i in self._seen else optimism for i in ids], np.float64)
        with np.errstate(divide="ignore"):
            keys = np.log(weights) + rng.gumbel(size=len(ids))
        keys = np.where(weights > 0, keys, -1e9 + rng.random(len(ids)))
        return [ids[i] for i in np.argsort(-keys, kind="stable")[:n]]

    def _malformed(self, candidate: Task, parents: Sequence[Task]) -> str:
        """What is wrong with a candidate; "" where nothing is."""
        env = next(iter(self._real.values())).env
        if not candidate.instruction.strip():
            return "it has no instruction"
        if not candidate.first_state.strip():
            return "it has no first state"
        if candidate.origin != "generated" or candidate.payload:
            return "a generated task must say origin 'generated' and have no payload"
        if candidate.env != env:
            return f"its environment is '{candidate.env}', not '{env}'"
        if not parents:
            return "it has no parent"
        if candidate.id in self._real or any(g.task.id == candidate.id for g in self._generated):
            return f"its id {candidate.id} is taken"
        return ""

    def _nearest(self, candidate: Task, embed: Embed) -> tuple[str, float]:
        """The known task most like the candidate, and the cosine of their texts."""
        invented = [g.task for g in self._generated if g.fate in ("active", "retired", "infeasible")]
        self._embed([*self._real.values(), *invented, candidate], embed)
        ids = [task_id for task_id in self._vectors if task_id != candidate.id]
        cosines = np.stack([self._vectors[i] for i in ids]) @ self._vectors[candidate.id]
        best = int(cosines.argmax())
        return ids[best], float(cosines[best])

    def _around(self, task_id: str) -> list[float]:
        """The rewards last seen of the visited tasks that are most like one."""
        others = sorted(self._rewards.keys() - {task_id})
        cosines = [float(self._vectors[other] @ self._vectors[task_id]) for other in others]
        nearest = np.argsort(-np.asarray(cosines), kind="stable")[: self._config.neighbours]
        return [reward for i in nearest for reward in self._rewards[others[i]]]

    def _embed(self, tasks: Iterable[Task], embed: Embed) -> None:
        """Have the vectors of some tasks at hand."""
        unknown = [t for t in tasks if t.id not in self._vectors]
        if unknown:
            self._vectors.update(zip((t.id for t in unknown), embed([task_text(t) for t in unknown]), strict=True))

    def _keep(self, candidate: Task, parents: Sequence[Task], fate: Fate, detail: str) -> TaskVerdict:
        lineage = [*(parent.id for parent in parents), *(older for parent in parents for older in parent.parent_ids)]
        task = dataclasses.replace(candidate, parent_ids=tuple(dict.fromkeys(lineage)))
        self._generated.append(_Generated(task, fate, detail))
        return TaskVerdict(fate == "active", fate, detail)

    def _find(self, task_id: str) -> _Generated:
        for found in self._generated:
            if found.task.id == task_id and found.fate in ("active", "retired"):
                return found
        raise ValueError(f"the curriculum does not know task '{task_id}'")


def task_text(task: Task) -> str:
    """The text by which tasks are compared: the instruction and, where known, the first state."""
    return f"{task.instruction}\n{task.first_state}".strip()


def _floor(x: float) -> int:
    """The integer part, forgiving a rounding error just below a whole number."""
    return math.floor(x + 1e-9)
