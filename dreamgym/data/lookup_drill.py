"""What a model made from scratch learns before any text: to look up in its context what followed a token before."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa

from dreamgym.learner.batches import SFT_SCHEMA

_PAIRS = 30


def drill(words: Sequence[int], tokens: int, seed: int) -> pa.Table:
    """About `tokens` tokens of look-ups among random words, as rows of `SFT_SCHEMA`.

    Half of the rows repeat a random segment, whole or from some point on (the task on which induction heads form,
    Olsson et al. 2022, arXiv 2209.11895); the other half name keys again whose last value is to be recalled
    (associative recall, Arora et al. 2023, arXiv 2312.04927). Only what can be known carries loss.

    Args:
        words: the token ids to draw from, at least 20.
    """
    rng = random.Random(seed)
    rows: list[tuple[list[int], list[float]]] = []
    made = 0
    while made < tokens:
        rows.append(_repeat(words, rng) if rng.random() < 0.5 else _recall(words, rng))
        made += len(rows[-1][0])
    return pa.Table.from_pydict({"ids": [r[0] for r in rows], "weights": [r[1] for r in rows]}, schema=SFT_SCHEMA)


def _repeat(words: Sequence[int], rng: random.Random) -> tuple[list[int], list[float]]:
    segment = rng.choices(words, k=rng.randrange(6, 20))
    ids, weights = list(segment), [0.0] * len(segment)
    for _ in range(2):
        gap = rng.choices(words, k=rng.randrange(12))
        again = segment[rng.randrange(len(segment) // 2) :]
        ids += gap + again
        weights += [0.0] * (len(gap) + 1) + [1.0] * (len(again) - 1)
    return ids, weights


def _recall(words: Sequence[int], rng: random.Random) -> tuple[list[int], list[float]]:
    keys = rng.sample(words, rng.randrange(4, 12))
    value: dict[int, int] = {}
    ids: list[int] = []
    weights: list[float] = []
    for key in rng.choices(keys, k=_PAIRS):
        known = key in value and rng.random() < 0.75
        if not known:
            value[key] = rng.choice(words)
        ids += [key, value[key]]
        weights += [0.0, float(known)]
    return ids, weights
