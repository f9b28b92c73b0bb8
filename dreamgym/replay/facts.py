"""Facts by task: what is recorded of the task that asks, or of those it was made from, by what its action asks for.

A room's contents or a shop's search results are in no context: no model can know them, but another episode of the same
task may have seen them (as RETRO, arXiv 2112.04426, and kNN-LM, arXiv 1911.00172, look facts up).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dreamgym.replay.embed import Embedder, Vectors
from dreamgym.replay.records import Demo, StoredTransition

LIKE = 0.8
"""Of its own task a step is shown no transition whose action has a smaller cosine to its own."""
_ROUNDED = 5


class Actions:
    """Unit vectors of actions alone; each text is embedded once."""

    def __init__(self, embedder: Embedder, limit: int = 100_000) -> None:
        self._embedder = embedder
        self._limit = limit
        self._known: dict[str, NDArray[np.float32]] = {}

    def vectors(self, actions: Sequence[str]) -> Vectors:
        """(n, dim), in the order of `actions`."""
        if len(self._known) > self._limit:
            self._known.clear()
        new = [text for text in dict.fromkeys(actions) if text not in self._known]
        self._known.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._known[text] for text in actions])


def facts(
    action: str,
    items: Sequence[StoredTransition],
    like: NDArray[np.float32],
    near: NDArray[np.float32],
    k: int,
    least: float = -1.0,
) -> list[int]:
    """At most k of a task's transitions for a step, best first: by the action, exact before alike, then by the state.

    Of equals a real one comes before a dreamed one; then the text decides, so that the order in which they were stored
    does not. What says the same is there once.

    Args:
        like: (n,) cosines between the action asked for and each transition's.
        near: (n,) cosines between phi(s, a) of the step and each transition's.
        least: a transition with a smaller one of these is none.

    Returns:
        Places in `items`.
    """
    keys = zip(np.round(like, _ROUNDED).tolist(), np.round(near, _ROUNDED).tolist(), items, strict=True)
    ranked = sorted(
        (item.action != action, -alike, -close, item.world == "dream", item.content, place)
        for place, (alike, close, item) in enumerate(keys)
        if close >= least and (item.action == action or alike >= LIKE)
    )
    different: dict[tuple[str, str, str], int] = {}
    for *_, place in ranked:
        item = items[place]
        different.setdefault((item.state, item.action, item.next_state), place)
    return list(different.values())[:k]


def filled(own: Sequence[Demo], others: Sequence[Demo], k: int) -> list[Demo]:
    """At most k demonstrations: those of one's own task first, then the nearest of all."""
    different: dict[tuple[str, str, str, str], Demo] = {}
    for demo in (*own, *others):
        different.setdefault((demo.task_id, demo.state, demo.action, demo.next_state), demo)
    return list(different.values())[:k]


def shown(demos: Sequence[Demo], k: int, min_similarity: float, skip: int = 0) -> list[Demo]:
    """At most k of the demonstrations that were found: those of one's own task, and others from that cosine on.

    `skip` leaves out so many after the first: who asks again, with other demonstrations, keeps the nearest, which may
    be the one that says no.
    """
    near = [d for d in demos if d.own or d.score >= min_similarity]
    return [*near[:1], *near[1 + skip :]][:k]
