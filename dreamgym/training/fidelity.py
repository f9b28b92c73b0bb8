"""How true the dream is: one step at a time along real episodes, each prediction held against what happened.

The dream is led by the real states (so that one mistake does not spoil all that follow) and keeps its own
reasoning. Nothing here is learned from.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamgym.models.chat import ChatFormat
from dreamgym.models.prompts import answer_parts
from dreamgym.serve.dream import World
from dreamgym.serve.experience import DreamAnswer, DreamQuery
from dreamgym.types import Trajectory, Transition, stable_id


@dataclass(frozen=True, slots=True)
class Prediction:
    """A real transition and what the dream said of it."""

    real: Transition
    dream: DreamAnswer


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
        answer = await world.step(DreamQuery(t.task, transcript, step.state, step.action, query_seed, trajectory=t.id))
        if answer.context_full:
            break
        predictions.append(Prediction(step, answer))
        real = "".join(answer_parts(replace(step, reasoning=answer.reasoning)))
        transcript = answer.transcript[: answer.asked] + chat.answer(real)
    return predictions


def scores(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Next-state accuracy, token F1, and precision and recall of reward and done.

    An unreadable answer counts as wrong in all of them. A precision or recall whose cases do not occur is left out.
    """
    if not predictions:
        return {"n": 0.0}
    readable = [not p.dream.error for p in predictions]
    pairs = list(zip(predictions, readable, strict=True))
    exact = [ok and p.dream.state == p.real.next_state for p, ok in pairs]
    outcome = [ok and p.dream.done == p.real.done and (p.dream.reward > 0) == (p.real.reward > 0) for p, ok in pairs]
    result = {
        "n": float(len(predictions)),
        "unreadable": 1 - sum(readable) / len(predictions),
        "state_exact": sum(exact) / len(predictions),
        "state_f1": sum(token_f1(p.dream.state, p.real.next_state) for p in predictions) / len(predictions),
        "outcome_accuracy": sum(outcome) / len(predictions),
    }
    for name, said, true in (
        ("done", [p.dream.done for p in predictions], [p.real.done for p in predictions]),
        ("reward", [p.dream.reward > 0 for p in predictions], [p.real.reward > 0 for p in predictions]),
    ):
        hits = sum(s and t for s, t in zip(said, true, strict=True))
        if any(said):
            result[f"{name}_precision"] = hits / sum(said)
        if any(true):
            result[f"{name}_recall"] = hits / sum(true)
    return result


def token_f1(said: str, true: str) -> float:
    """Harmonic mean of word precision and recall, words counted as often as they occur (as in SQuAD)."""
    a, b = Counter(said.split()), Counter(true.split())
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0


def named(predictions: Sequence[Prediction], name: str) -> dict[str, float]:
    """The scores as `fidelity/<name>/…`."""
    return {f"fidelity/{name}/{key}": value for key, value in scores(predictions).items()}
