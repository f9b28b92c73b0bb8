"""Replicas of the experience model come with the load of their engines and go with it: real engines, real Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray import serve

from dreamgym.config import ModelConfig, RunConfig, ScratchModel
from dreamgym.errors import EngineError
from dreamgym.models.checkpoint import prepare_model
from dreamgym.serve.app import WORLD, DreamApp, start_dream
from dreamgym.serve.experience import DreamQuery
from dreamgym.types import Task
from tests.waiting import HANG_S, until

CONFIG = RunConfig.model_validate(
    {
        "world": {
            "sampling": {"max_tokens": 400},
            "engine": {"max_model_len": 512, "max_num_seqs": 4, "kv_cache_gib": 0.1, "timeout_s": HANG_S},
            "max_replicas": 2,
            "attempts": 1,
            "upscale_delay_s": 1.0,
            "downscale_delay_s": 2.0,
        }
    }
)


def tiny_dreamer(folder: Path, seed: int, context: int = 2048) -> Path:
    shape = ScratchModel(layers=1, hidden=32, intermediate=64, heads=1, head_dim=32, vocab=300, context=context)
    return prepare_model(ModelConfig(scratch=shape), folder, ["at a, go north to b"] * 20, seed)


@pytest.fixture(scope="module")
def dream(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DreamApp]:
    """One dream for all tests; the last of them gives it another model."""
    app = start_dream(CONFIG, tiny_dreamer(tmp_path_factory.mktemp("dream") / "model", 0), None, threads=1)
    yield app
    app.close()
    serve.shutdown()


def test_a_model_that_no_engine_can_start_says_why(dream: DreamApp, tmp_path: Path) -> None:
    """Serve only says that the deployment failed."""
    short = tiny_dreamer(tmp_path / "short", 0, context=128)
    with pytest.raises(EngineError, match=r"did not start: .*max_model_len \(512\)"):
        start_dream(CONFIG, short, None, threads=1, suffix="-short")


def replicas(app: DreamApp) -> int:
    return serve.status().applications[app.name].deployments[WORLD].replica_states.get("RUNNING", 0)


async def scaled(app: DreamApp, count: int) -> None:
    await asyncio.to_thread(until, f"the number of {count} replicas", lambda: replicas(app) == count, 1.0)


async def dreaming(app: DreamApp, answered: asyncio.Event | None = None) -> None:
    """Six at a time ask for one dream step after the other: one and a half engines' worth."""

    async def one(number: int) -> None:
        task = Task(f"t{number}", "e", "leave the room")
        while True:
            await app.world.step(DreamQuery(task, [], "at a", "go", number))
            if answered is not None:
                answered.set()

    await asyncio.gather(*(one(number) for number in range(6)))


def test_replicas_follow_the_load_of_the_engines_up_and_down(dream: DreamApp) -> None:
    async def story() -> None:
        assert replicas(dream) == 1
        load = asyncio.create_task(dreaming(dream))
        await scaled(dream, 2)
        assert not load.done(), "the dream went on while a replica was added"
        load.cancel()
        await scaled(dream, 1)
        answer = await dream.world.step(DreamQuery(Task("t", "e", "leave"), [], "at a", "go", 0))
        assert answer.written or answer.error

    asyncio.run(story())


async def sayings(app: DreamApp) -> list[str]:
    """What a dream with random weights says, unreadable as it is, to one question after the other."""
    questions = [DreamQuery(Task(f"t{n}", "e", "leave the room"), [], "at a", "go", 7) for n in range(8)]
    return [(await app.world.step(question)).error for question in questions]


def test_a_dream_goes_on_with_another_model_and_what_is_asked_meanwhile_is_answered(
    dream: DreamApp, tmp_path: Path
) -> None:
    other = tiny_dreamer(tmp_path / "other", 1)

    async def story() -> None:
        before = await sayings(dream)
        answered = asyncio.Event()
        load = asyncio.create_task(dreaming(dream, answered))
        await answered.wait()
        await asyncio.to_thread(dream.load, other)
        assert not load.done(), "no call failed"
        load.cancel()
        fresh = await asyncio.to_thread(start_dream, CONFIG, other, None, threads=1, suffix="-fresh")
        told = await sayings(dream)
        assert told == await sayings(fresh)
        assert told != before

    asyncio.run(story())
    assert dream.model == other
