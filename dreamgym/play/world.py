"""The experience model of a run in this process: the model and the buffer that Serve and Ray host in training."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dreamgym.config import QdrantConfig, RunConfig
from dreamgym.replay.actor import ReplayActor
from dreamgym.replay.records import seed_transitions
from dreamgym.replay.store import FILE as BUFFER
from dreamgym.schema import read_parquet
from dreamgym.serve.experience import DreamAnswer, DreamQuery, ExperienceModel
from dreamgym.serve.seen_outcomes import read_outcomes


class LocalWorld:
    """Dreams steps as a replica of the experience model does, for it is one: same prompts, retrieval and parser."""

    def __init__(self, model: ExperienceModel, seats: int) -> None:
        """`seats` are the steps that the engine dreams at once; further ones wait outside its deadline."""
        self._model = model
        self._room = asyncio.Semaphore(seats)

    async def step(self, query: DreamQuery) -> DreamAnswer:
        """Dream one step.

        Raises:
            EngineError: the engine died.
        """
        async with self._room:
            answers = [answer async for some in self._model.step_many([query]) for _, answer in some]
        return answers[0]

    async def close(self) -> None:
        """End the engine."""
        await self._model.close()


async def open_world(config: RunConfig, model: Path, buffer: Path | None) -> LocalWorld:
    """Load a model and fill its buffer; no Ray is started, and a Qdrant service of the run is left alone.

    Args:
        model: the folder of the experience model.
        buffer: a folder with a saved buffer; None, or one without it, begins with the run's seed data as training does.

    Raises:
        DataError: the buffer or the seed data cannot be read.
        ModelError: the model cannot be loaded.
    """
    config = config.model_copy(deep=True)
    # A service holds the run's own collection, which a second buffer would replace.
    config.replay.qdrant = QdrantConfig()
    config.world.engine.export_stats = False
    config.log_level = "warning"
    replay = await _buffer(config, buffer) if config.replay.top_k > 0 else None
    world = ExperienceModel.__new__(ExperienceModel)
    # No thread count: an environment of the user's may run in this process, and need what an engine's own does without.
    seen = read_outcomes(config.run_dir / "data" / "annotated.parquet")
    await world.__init__(str(model), config, replay, None, seen)  # type: ignore[misc]
    return LocalWorld(world, await world.seats())


async def _buffer(config: RunConfig, saved: Path | None) -> ReplayActor:
    """The run's buffer, in this process."""
    replay = ReplayActor(config.replay, config.seed, "play")
    if saved is not None and (saved / BUFFER).is_file():
        await replay.load(saved)
    else:
        items = seed_transitions(read_parquet(config.run_dir / "data" / "annotated.parquet"))
        await replay.add(items[: config.replay.capacity])
    return replay
