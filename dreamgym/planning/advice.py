"""The nearest setting that fits: the cheapest list of changes after which the same estimate finds nothing amiss."""

from __future__ import annotations

import functools
import heapq
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from dreamgym.config import RunConfig
from dreamgym.inference.engine_args import MOST_SEATS
from dreamgym.planning.estimate import Estimate

Change = dict[str, Any]
"""Fields by dotted name, and their new values."""
Judge = Callable[[RunConfig], Estimate]
TRIES = 1500
LEAST_WINDOW = 1024
LEAST_BUDGET = 1024
RANK = 16


def nearest(config: RunConfig, judge: Judge) -> Change | None:
    """The least change of settings after which `judge` finds no misfit; {} where it fits, None where none was found.

    Changes are tried in the order of their price, which is higher for those that change what a run learns or
    how fast it is; each is judged by the same estimate as the run itself.
    """
    order = itertools.count()
    queue: list[tuple[float, int, Change]] = [(0.0, next(order), {})]
    seen: set[tuple[tuple[str, Any], ...]] = set()
    for _ in range(TRIES):
        if not queue:
            return None
        price, _, change = heapq.heappop(queue)
        tried = apply(config, change)
        if tried is None:
            continue
        misfits = judge(tried).misfits
        if not misfits:
            return {name: value for name, value in change.items() if value != _value(config, name)}
        for more, step in moves(tried, {misfit.part for misfit in misfits}):
            following = change | step
            key = tuple(sorted(following.items()))
            if key not in seen:
                seen.add(key)
                heapq.heappush(queue, (price + more, next(order), following))
    return None


def _value(config: RunConfig, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


def apply(config: RunConfig, change: Change) -> RunConfig | None:
    """The configuration with some fields changed; None where they contradict others."""
    fields = config.model_dump()
    for name, value in change.items():
        section = fields
        *above, leaf = name.split(".")
        for part in above:
            section = section[part]
        section[leaf] = value
    try:
        return RunConfig.model_validate(fields)
    except ValidationError:
        return None


def moves(config: RunConfig, parts: set[str]) -> Iterator[tuple[float, Change]]:
    """Single changes that may help parts that do not fit, with their prices."""
    if "precision" in parts:
        yield 0.0, {"policy.model.dtype": "float32", "world.model.dtype": "float32"}
    if "optimizer" in parts:
        yield 0.5, {"learner.zero_stage": 2}
        yield 3.0, {f"{name}.optimizer": "adamw" for name in ("world.sft", "policy.sft", "learner")}
    if parts & {"learner", "host"}:
        yield from _learner(config)
    if "host" in parts and config.learner.workers > 1:
        yield 2.0, {"learner.workers": config.learner.workers - 1}
    for section in ("policy", "world"):
        if parts & {section, "host"}:
            yield from _engine(config, section)
    if "gpus" in parts:
        yield from _fewer(config)
    if "colocate" in parts:
        yield from _learner(config)
        for section in ("policy", "world"):
            share = getattr(config, section).engine.gpu_memory_utilization
            if share > 0.1:
                yield 1.0, {f"{section}.engine.gpu_memory_utilization": round(share - 0.05, 2)}
    if "disk" in parts and config.train.keep_checkpoints > 1:
        yield 1.0, {"train.keep_checkpoints": config.train.keep_checkpoints - 1}


def _learner(config: RunConfig) -> Iterator[tuple[float, Change]]:
    learner = config.learner
    if not learner.gradient_checkpointing:
        yield 1.0, {"learner.gradient_checkpointing": True}
    for stage in range(learner.zero_stage + 1, 4):
        yield 0.5 * (stage - learner.zero_stage), {"learner.zero_stage": stage}
    longest = max(config.policy.engine.max_model_len, config.world.engine.max_model_len, LEAST_BUDGET)
    if learner.token_budget // 2 >= longest:
        yield 1.5, {"learner.token_budget": learner.token_budget // 2}
    if not learner.offload:
        yield 4.0, {"learner.offload": True, "learner.zero_stage": max(1, learner.zero_stage)}
    if not config.policy.lora.rank:
        yield 6.0, {"policy.lora.rank": RANK}
    if not config.train.colocate:
        yield 5.0, {"learner.workers": learner.workers * 2}


def _engine(config: RunConfig, section: str) -> Iterator[tuple[float, Change]]:
    engine, name = getattr(config, section).engine, f"{section}.engine"
    if engine.gpu_memory_utilization < 0.95 and not config.train.colocate:
        yield 0.5, {f"{name}.gpu_memory_utilization": min(0.95, round(engine.gpu_memory_utilization + 0.05, 2))}
    seats = engine.max_num_seqs or MOST_SEATS
    if seats > 8:
        yield 1.0, {f"{name}.max_num_seqs": seats // 2}
    if engine.kv_cache_gib > 0.1:
        yield 1.0, {f"{name}.kv_cache_gib": engine.kv_cache_gib / 2}
    if engine.max_model_len // 2 >= LEAST_WINDOW:
        yield 3.0, {f"{name}.max_model_len": engine.max_model_len // 2}
    if not config.train.colocate:
        yield 3.0, {f"{name}.tensor_parallel": engine.tensor_parallel * 2}


def _fewer(config: RunConfig) -> Iterator[tuple[float, Change]]:
    """Changes that ask for fewer GPUs."""
    if config.policy.engines > 1:
        yield 1.0, {"policy.engines": config.policy.engines - 1}
    if config.world.replicas > 1:
        yield 1.0, {"world.replicas": config.world.replicas - 1}
    if config.learner.workers > 1:
        yield 1.5, {"learner.workers": config.learner.workers - 1}
    for section in ("policy", "world"):
        if getattr(config, section).engine.tensor_parallel > 1:
            half = getattr(config, section).engine.tensor_parallel // 2
            yield 1.0, {f"{section}.engine.tensor_parallel": half}
    if config.world.refresh.every:
        yield 2.0, {"world.refresh.every": 0}
    if config.device == "gpu":
        yield 20.0, {"device": "auto"}
    if not config.train.colocate and config.learner.workers == 1 and config.policy.engines == 1:
        yield (
            4.0,
            {
                "train.colocate": True,
                "train.max_staleness": 0,
                "world.replicas": 1,
                "world.max_replicas": 1,
                "policy.engine.tensor_parallel": 1,
                "world.engine.tensor_parallel": 1,
                "policy.engine.gpu_memory_utilization": 0.3,
                "world.engine.gpu_memory_utilization": 0.3,
            },
        )


NONE = "take larger devices or more of them, or smaller models"
"""The remedy where no setting was found."""


def words(change: Change) -> str:
    """A change as one types it."""
    return " ".join(f"{name}={json.dumps(value).strip(chr(34))}" for name, value in change.items())
