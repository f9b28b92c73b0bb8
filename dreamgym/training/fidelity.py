"""How true the dream is: one step at a time along real episodes, each prediction held against what happened.

The dream is led by the real states (so that one mistake does not spoil all that follow) and keeps its own
reasoning. Nothing here is learned from, and no recorded episode is shown its own steps.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamgym.models.chat import ChatFormat
from dreamgym.models.prompts import answer_parts
from dreamgym.replay.records import lineage
from dreamgym.serve.dream import World
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.types import Trajectory, Transition, is_success, stable_id

EPISODES = 24
"""Episodes of the policy's own, and of recorded train tasks, along which the dream is asked; held-out ones are twice
as many."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A real transition, what the dream said of it, and the ids of its task and of those that this was made from."""

    real: Transition
    dream: DreamAnswer
    tasks: tuple[str, ...] = ()

    @property
    def same_task(self) -> bool:
        """Whether a demonstration of its own task was shown."""
        return any(demo.task_id in self.tasks for demo in self.dream.demos)

    @property
    def knew(self) -> bool:
        """Whether the real next state was shown, to the letter."""
        return any(demo.next_state == self.real.next_state for demo in self.dream.demos)


def train_episodes(seed_data: Sequence[Trajectory], seed: int) -> list[Trajectory]:
    """At most `EPISODES` of the seed data to measure on, each of another task: the same in every run of a seed."""
    drawn = sorted((t for t in seed_data if t.fold == "train" and t.steps), key=lambda t: stable_id(seed, "told", t.id))
    of_task = {t.task.id: t for t in reversed(drawn)}
    return list(of_task.values())[-EPISODES:]


async def predict(trajectories: Sequence[Trajectory], world: World, chat: ChatFormat, seed: int) -> list[Prediction]:
    """Ask the dream for every step of real episodes, all episodes side by side."""
    told = await asyncio.gather(*(_along(t, world, chat, seed) for t in trajectories))
    return [prediction for episode in told for prediction in episode]


async def predict_last(
    trajectories: Sequence[Trajectory], world: World, chat: ChatFormat, seed: int
) -> list[Prediction]:
    """The same of the last step of each episode alone; one for which the context has no room is left out."""
    told = await asyncio.gather(*(_along(t, world, chat, seed) for t in trajectories))
    return [found[-1] for t, found in zip(trajectories, told, strict=True) if found and found[-1].real is t.steps[-1]]


async def _along(t: Trajectory, world: World, chat: ChatFormat, seed: int) -> list[Prediction]:
    transcript: list[int] = []
    predictions: list[Prediction] = []
    for index, step in enumerate(t.steps):
        if step.malformed:  # the world was not asked
            continue
        query_seed = int(stable_id(seed, t.id, index), 16) & 0x7FFFFFFF
        done = tuple(s for s in t.steps[:index] if not s.malformed)
        query = DreamQuery(
            t.task, transcript, step.state, step.action, query_seed, trajectory=t.id, without=t.id, history=done
        )
        answer = await world.step(query)
        if answer.context_full:
            break
        predictions.append(Prediction(step, answer, lineage(t.task)))
        real = "".join(answer_parts(replace(step, reasoning=answer.reasoning)))
        transcript = answer.transcript[: answer.asked] + chat.answer(real)
    return predictions


def scores(predictions: Sequence[Prediction], above: float) -> dict[str, float]:
    """Next-state accuracy, token F1, precision and recall of done and of success; then the demonstrations.

    `above` is the environment's `success_above`. The outcome is whether a step ends, and whether it is a success.
    An unreadable answer counts as wrong in all of them. A precision or recall whose cases do not occur is left out.
    Of the demonstrations: the share of prompts that `demo_shown` one and, of these, with one of the `demo_same_task`
    and with the `demo_right` next state; then state and outcome where that was shown (`_told`), and elsewhere.
    """
    if not predictions:
        return {"n": 0.0}
    readable = [not p.dream.error for p in predictions]
    pairs = list(zip(predictions, readable, strict=True))
    exact = [ok and p.dream.state == p.real.next_state for p, ok in pairs]
    said_won = [p.dream.solved(above) for p in predictions]
    won = [is_success(p.real.reward, p.real.done, above) for p in predictions]
    outcome = [
        ok and p.dream.done == p.real.done and said == true
        for (p, ok), said, true in zip(pairs, said_won, won, strict=True)
    ]
    result: dict[str, float] = {
        "n": float(len(predictions)),
        "unreadable": 1 - sum(readable) / len(predictions),
        "state_exact": sum(exact) / len(predictions),
        "state_f1": sum(token_f1(p.dream.state, p.real.next_state) for p in predictions) / len(predictions),
        "outcome_accuracy": sum(outcome) / len(predictions),
    }
    for name, said, true in (
        ("done", [p.dream.done for p in predictions], [p.real.done for p in predictions]),
        ("reward", said_won, won),
    ):
        hits = sum(s and t for s, t in zip(said, true, strict=True))
        if any(said):
            result[f"{name}_precision"] = hits / sum(said)
        if any(true):
            result[f"{name}_recall"] = hits / sum(true)
    return result | _demonstrations(predictions, exact, outcome)


def _demonstrations(
    predictions: Sequence[Prediction], exact: Sequence[bool], outcome: Sequence[bool]
) -> dict[str, float]:
    asked = [p for p in predictions if not p.dream.error]
    with_one = [p for p in asked if p.dream.demos]
    if not with_one:
        return {"demo_shown": 0.0}
    result = {
        "demo_shown": len(with_one) / len(asked),
        "demo_same_task": sum(p.same_task for p in with_one) / len(with_one),
        "demo_right": sum(p.knew for p in with_one) / len(with_one),
    }
    for knew, name in ((True, "told"), (False, "untold")):
        rows = [row for row, p in enumerate(predictions) if p.knew == knew]
        if rows:
            result[f"state_exact_{name}"] = sum(exact[row] for row in rows) / len(rows)
            result[f"outcome_accuracy_{name}"] = sum(outcome[row] for row in rows) / len(rows)
    return result


def token_f1(said: str, true: str) -> float:
    """Harmonic mean of word precision and recall, words counted as often as they occur (as in SQuAD)."""
    a, b = Counter(said.split()), Counter(true.split())
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0


def named(predictions: Sequence[Prediction], name: str, above: float) -> dict[str, float]:
    """The scores as `fidelity/<name>/…`."""
    return {f"fidelity/{name}/{key}": value for key, value in scores(predictions, above).items()}
