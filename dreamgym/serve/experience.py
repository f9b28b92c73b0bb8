"""The experience model behind Ray Serve: it retrieves, reasons, and writes what the environment would do next."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dreamgym.config import RunConfig
from dreamgym.envs.base import env_tools
from dreamgym.errors import EngineError
from dreamgym.inference.batching import as_they_come
from dreamgym.inference.engine import ContextFull, Generation, TokenEngine
from dreamgym.inference.engine_load import LOAD_STAT
from dreamgym.models.chat import load_chat
from dreamgym.models.prompts import ParseError, ask, begin, parse_answer, parse_text
from dreamgym.replay.records import Demo
from dreamgym.runtime.spared_imports import spare_imports
from dreamgym.telemetry.ray_metrics import Tally
from dreamgym.telemetry.tracing import Event, log_to_session
from dreamgym.types import Task

log = logging.getLogger(__name__)


class AnswerCut(ParseError):
    """The context window ended before the answer did."""


@dataclass(frozen=True, slots=True)
class DreamQuery:
    """One step to dream. `transcript` is the conversation so far, as token ids; empty at the first step.

    `trajectory` is the id of the episode that asks, for the logs. `tell` asks for the demonstrations themselves.
    """

    task: Task
    transcript: list[int]
    state: str
    action: str
    seed: int
    skip_demos: int = 0
    trajectory: str = ""
    tell: bool = False


@dataclass(frozen=True, slots=True)
class DreamAnswer:
    """R_t, s_{t+1}, r_{t+1} and done; `error` says why there is none.

    `transcript` has grown by this step's question (its first `asked` ids) and, where there is one, its answer.
    `read`, `cached` and `written` are the engine's tokens: of the prompt, those of it from the prefix cache, and new;
    `load` is the engine's (`scaling.engine_load`). `overruled`: the first answer was another (`dream.majority`).
    `shown` are the demonstrations that it was shown, best first, where the query wants to be told.
    """

    reasoning: str = ""
    state: str = ""
    reward: float = 0.0
    done: bool = False
    transcript: list[int] = field(default_factory=list)
    asked: int = 0
    demos: int = 0
    context_full: bool = False
    error: str = ""
    read: int = 0
    cached: int = 0
    written: int = 0
    load: float = 0.0
    overruled: bool = False
    shown: tuple[Demo, ...] = ()

    def solved(self, above: float) -> bool:
        """Whether it says that the task is: an end with a reward above that."""
        return self.done and self.reward > above


@dataclass(frozen=True, slots=True)
class WriteQuery:
    """A free text to write: the first state of an invented task, or a variation of a task."""

    message: str
    seed: int


class Retrieval(Protocol):
    """Where demonstrations come from: the client of the buffer's actor, or a buffer in this process."""

    async def search(self, queries: Sequence[tuple[str, str]], k: int) -> list[list[Demo]]: ...


class ExperienceModel:
    """M_exp (paper, section 4.1): stateless between calls, so replicas come and go as load does.

    A batch is answered request by request, as (its place, answer) in the order in which the answers are written; a
    failure is that request's `error`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model: str, config: RunConfig, replay: Retrieval | None, threads: int | None
    ) -> None:
        if threads is not None:
            spare_imports()
        log_to_session(config.log_level)
        self._config = config.world
        self._top_k = config.replay.top_k if replay is not None else 0
        self._min_similarity = config.replay.min_similarity
        self._replay = replay
        self._chat = load_chat(model, forks=not config.world.history)
        self._tools = env_tools(config.env.name)
        self._engine = TokenEngine(
            Path(model),
            config.world.engine,
            dtype=config.world.model.dtype,
            seed=config.seed,
            threads=threads,
            colocated=config.train.colocate,
        )
        await self._engine.start()
        self._tally = Tally("world", config.run_dir.name, "steps", "reasked", "unparsed", "demos")

    async def step_many(self, queries: Sequence[DreamQuery]) -> AsyncIterator[list[tuple[int, DreamAnswer]]]:
        """Dream one step for each query; demonstrations are retrieved for all of them at once."""
        demos = await self._retrieve(queries)
        async for answers in as_they_come(self._step(q, d) for q, d in zip(queries, demos, strict=True)):
            yield answers

    async def write_many(self, queries: Sequence[WriteQuery]) -> AsyncIterator[list[tuple[int, str]]]:
        """Write one text for each query; an empty one says that the answer was malformed."""
        async for texts in as_they_come(self._write(q) for q in queries):
            yield texts

    async def metrics(self) -> dict[str, float]:
        """Counts since the start: dream steps, steps asked again, steps given up, and the engine's tokens."""
        return {**self._tally.counts, **self._engine.metrics()}

    async def seats(self) -> int:
        """See `TokenEngine.seats`."""
        return self._engine.seats

    async def sleep(self) -> None:
        """See `TokenEngine.sleep`."""
        await self._engine.sleep()

    async def wake(self) -> None:
        """See `TokenEngine.wake`."""
        await self._engine.wake()

    async def close(self) -> None:
        """End the engine."""
        await self._engine.close()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve asks for regularly, for `scaling.replicas_for_load`."""
        return {LOAD_STAT: self._engine.load()}

    async def _retrieve(self, queries: Sequence[DreamQuery]) -> list[list[Demo]]:
        if self._replay is None or self._top_k == 0:
            return [[] for _ in queries]
        skip = max(q.skip_demos for q in queries)
        found = await self._replay.search([(q.state, q.action) for q in queries], self._top_k + skip)
        near = [[d for d in demos if d.score >= self._min_similarity] for demos in found]
        return [demos[q.skip_demos :][: self._top_k] for q, demos in zip(queries, near, strict=True)]

    async def _step(self, q: DreamQuery, demos: Sequence[Demo]) -> DreamAnswer:
        self._tally.add("steps")
        self._tally.add("demos", len(demos))
        log.debug(Event("dream step", trajectory=q.trajectory, action=q.action, demos=len(demos)))
        prompt = ask(self._config, self._chat, q.transcript, q.task, q.state, q.action, demos, self._tools)
        error, cut, shown = "", False, tuple(demos) if q.tell else ()
        for attempt in range(self._config.attempts):
            try:
                answer = await self._generate(prompt, q.seed + attempt)
                step = parse_answer(self._chat.decode(answer.ids), q.state)
                return DreamAnswer(
                    step.reasoning,
                    step.state,
                    step.reward,
                    step.done,
                    prompt + answer.ids,
                    asked=len(prompt),
                    demos=len(demos),
                    read=answer.prompt_tokens,
                    cached=answer.cached_tokens,
                    written=len(answer.ids),
                    load=answer.load,
                    shown=shown,
                )
            except ContextFull as full:
                return DreamAnswer(context_full=True, error=str(full))
            except (ParseError, EngineError) as fault:
                error, cut = str(fault), isinstance(fault, AnswerCut)
                self._tally.add("reasked")
                log.warning(Event("asked again", trajectory=q.trajectory, attempt=attempt, reason=error))
        if cut:
            return DreamAnswer(context_full=True, error=error)
        self._tally.add("unparsed")
        return DreamAnswer(
            transcript=prompt,
            asked=len(prompt),
            shown=shown,
            error=f"the dream gave no readable step in {self._config.attempts} attempts: {error}",
        )

    async def _write(self, q: WriteQuery) -> str:
        prompt = begin(self._config, self._chat, q.message)
        try:
            answer = await self._generate(prompt, q.seed)
            return parse_text(self._chat.decode(answer.ids), "the text")
        except (ParseError, ContextFull):
            return ""

    async def _generate(self, prompt: list[int], seed: int) -> Generation:
        answer = await self._engine.generate(
            prompt, self._config.sampling, stop_ids=self._chat.stop_ids, seed=seed & 0x7FFFFFFF, logprobs=False
        )
        if answer.finish_reason != "stop":
            window = self._config.engine.max_model_len
            if len(prompt) + len(answer.ids) >= window:
                raise AnswerCut(f"the window of {window} tokens cut the answer; raise world.engine.max_model_len")
            raise ParseError(
                f"the answer did not end within world.sampling.max_tokens={self._config.sampling.max_tokens}"
            )
        return answer
