"""The experience model behind Ray Serve: it retrieves, reasons, and writes what the environment would do next."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from dreamgym.config import ReplayConfig, RunConfig
from dreamgym.envs.base import env_tools
from dreamgym.envs.checker import checker_of
from dreamgym.errors import EngineError, EnvError
from dreamgym.inference.batching import as_they_come
from dreamgym.inference.engine import ContextFull, Generation, TokenEngine
from dreamgym.inference.engine_load import LOAD_STAT
from dreamgym.models.chat import load_chat
from dreamgym.models.prompts import DreamStep, ParseError, answer_parts, ask, begin, parse_answer, parse_text, recorded
from dreamgym.replay.facts import shown
from dreamgym.replay.records import Demo, lineage
from dreamgym.runtime.spared_imports import spare_imports
from dreamgym.serve.cautious import with_probable_outcome
from dreamgym.serve.seen_outcomes import SeenOutcomes
from dreamgym.telemetry.ray_metrics import Tally
from dreamgym.telemetry.tracing import Event, log_to_session
from dreamgym.types import Task, Transition, is_success

log = logging.getLogger(__name__)


class AnswerCut(ParseError):
    """The context window ended before the answer did."""


class UnseenOutcome(ParseError):
    """A reward that the recorded data never holds with such an end."""


FAULTS = {AnswerCut: "cut", UnseenOutcome: "outcome", ParseError: "format", EngineError: "engine"}
"""Why an answer is asked again, the first that fits."""
KINDS = tuple(f"reasked_{name}" for name in FAULTS.values())


@dataclass(frozen=True, slots=True)
class DreamQuery:
    """One step to dream. `transcript` is the conversation so far, as token ids; empty at the first step.

    `skip_demos` leaves out so many demonstrations after the nearest, and `without` all of that recorded episode.
    `trajectory` is the id of the episode that asks, for the logs. `before` are the recorded steps that a dream without
    a transcript goes on from. `history` is what was done in the episode before, for the environment's checker; it does
    not travel where there is none.
    """

    task: Task
    transcript: list[int]
    state: str
    action: str
    seed: int
    skip_demos: int = 0
    trajectory: str = ""
    without: str = ""
    before: tuple[Transition, ...] = ()
    history: tuple[Transition, ...] = ()

    def then(self, answer: DreamAnswer) -> Transition:
        """The step that was asked for."""
        return Transition(self.state, self.action, answer.state, answer.reward, answer.done, answer.reasoning)


@dataclass(frozen=True, slots=True)
class DreamAnswer:
    """R_t, s_{t+1}, r_{t+1} and done; `error` says why there is none.

    `transcript` has grown by this step's question (its first `asked` ids) and, where there is one, its answer.
    `demos` are the demonstrations that the question shows.
    `read`, `cached` and `written` are the engine's tokens: of the prompt, those of it from the prefix cache, and new;
    `load` is the engine's (`scaling.engine_load`). `overruled`: the first answer was another (`dream.majority`).
    """

    reasoning: str = ""
    state: str = ""
    reward: float = 0.0
    done: bool = False
    transcript: list[int] = field(default_factory=list)
    asked: int = 0
    demos: Sequence[Demo] = ()
    context_full: bool = False
    error: str = ""
    read: int = 0
    cached: int = 0
    written: int = 0
    load: float = 0.0
    overruled: bool = False

    def solved(self, above: float) -> bool:
        """Whether it says that the task is."""
        return is_success(self.reward, self.done, above)


@dataclass(frozen=True, slots=True)
class WriteQuery:
    """A free text to write: the first state of an invented task, or a variation of a task."""

    message: str
    seed: int


class Retrieval(Protocol):
    """Where demonstrations come from: the client of the buffer's actor, or a buffer in this process."""

    async def search(
        self,
        queries: Sequence[tuple[str, str]],
        k: int,
        exclude_trajectories: Sequence[str | None] | None = None,
        tasks: Sequence[tuple[str, ...]] | None = None,
    ) -> list[list[Demo]]: ...


async def retrieve(replay: Retrieval | None, config: ReplayConfig, queries: Sequence[DreamQuery]) -> list[list[Demo]]:
    """The demonstrations that each query's prompt shows, best first."""
    if replay is None or config.top_k == 0:
        return [[] for _ in queries]
    found = await replay.search(
        [(q.state, q.action) for q in queries],
        config.top_k + max(q.skip_demos for q in queries),
        [q.without or None for q in queries],
        [lineage(q.task) for q in queries] if config.by_task is not None else None,
    )
    return [
        shown(demos, config.top_k, config.min_similarity, q.skip_demos) for q, demos in zip(queries, found, strict=True)
    ]


class ExperienceModel:
    """M_exp (paper, section 4.1): stateless between calls, so replicas come and go as load does.

    A batch is answered request by request, as (its place, answer) in the order in which the answers are written; a
    failure is that request's `error`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        model: str,
        config: RunConfig,
        replay: Retrieval | None,
        threads: int | None,
        seen: SeenOutcomes | None = None,
    ) -> None:
        """`seen`: an answer may come to nothing else, where the model has the word on that."""
        if threads is not None:
            spare_imports()
        log_to_session(config.log_level)
        self._config = config.world
        self._shown = config.replay
        self._replay = replay
        self._chat = load_chat(model, forks=not config.world.history)
        self._tools = env_tools(config.env.name)
        self._check, self._seen = checker_of(config), seen
        self._engine = TokenEngine(
            Path(model),
            config.world.engine,
            dtype=config.world.model.dtype,
            seed=config.seed,
            threads=threads,
            colocated=config.train.colocate,
        )
        await self._engine.start()
        self._tally = Tally("world", config.run_dir.name, "steps", "reasked", "unparsed", "demos", *KINDS)

    async def step_many(self, queries: Sequence[DreamQuery]) -> AsyncIterator[list[tuple[int, DreamAnswer]]]:
        """Dream one step for each query; demonstrations are retrieved for all of them at once."""
        demos = await retrieve(self._replay, self._shown, queries)
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

    async def _step(self, q: DreamQuery, demos: Sequence[Demo]) -> DreamAnswer:
        self._tally.add("steps")
        self._tally.add("demos", len(demos))
        log.debug(Event("dream step", trajectory=q.trajectory, action=q.action, demos=len(demos)))
        transcript = q.transcript or recorded(self._config, self._chat, q.task, q.before, self._tools)
        asked = (q.task, q.state, q.action, demos, self._tools, self._shown.by_task is not None)
        prompt = ask(self._config, self._chat, transcript, *asked)
        error, cut = "", False
        for attempt in range(self._config.attempts):
            try:
                answer = await self._generate(prompt, q.seed + attempt)
                if self._config.probable_outcome:
                    greedy = partial(self._generate, seed=q.seed, temperature=0.0)
                    answer = await with_probable_outcome(self._chat, prompt, answer, greedy)
                said = parse_answer(self._chat.decode(answer.ids), q.state)
                step = self._judged(q, said)
                return DreamAnswer(
                    step.reasoning,
                    step.state,
                    step.reward,
                    step.done,
                    prompt + (answer.ids if step == said else self._chat.answer(_text(q, step))),
                    asked=len(prompt),
                    demos=demos,
                    read=answer.prompt_tokens,
                    cached=answer.cached_tokens,
                    written=len(answer.ids),
                    load=answer.load,
                )
            except ContextFull as full:
                return DreamAnswer(context_full=True, error=str(full))
            except (ParseError, EngineError) as fault:
                error, cut = str(fault), isinstance(fault, AnswerCut)
                self._tally.add("reasked")
                self._tally.add(next(f"reasked_{name}" for kind, name in FAULTS.items() if isinstance(fault, kind)))
                log.warning(Event("asked again", trajectory=q.trajectory, attempt=attempt, reason=error))
            except EnvError as fault:
                return DreamAnswer(transcript=prompt, asked=len(prompt), error=str(fault))
        if cut:
            return DreamAnswer(context_full=True, error=error)
        self._tally.add("unparsed")
        return DreamAnswer(
            transcript=prompt,
            asked=len(prompt),
            demos=demos,
            error=f"the dream gave no readable step in {self._config.attempts} attempts: {error}",
        )

    def _judged(self, q: DreamQuery, said: DreamStep) -> DreamStep:
        """A step with the reward and the end that count.

        Raises:
            UnseenOutcome: the model has the word on them, and says what cannot be.
            EnvError: the environment's checker fails.
        """
        if self._check is None:
            if self._seen is not None and (why := self._seen.refusal(said.reward, said.done)):
                raise UnseenOutcome(why)
            return said
        told = Transition(q.state, q.action, said.state, said.reward, said.done, said.reasoning)
        reward, done = self._check(q.task, q.history, told)
        return replace(said, reward=reward, done=done)

    async def _write(self, q: WriteQuery) -> str:
        prompt = begin(self._config, self._chat, q.message)
        try:
            answer = await self._generate(prompt, q.seed)
            return parse_text(self._chat.decode(answer.ids), "the text")
        except (ParseError, ContextFull):
            return ""

    async def _generate(self, prompt: list[int], seed: int, temperature: float | None = None) -> Generation:
        """By default at the temperature of `world.sampling`."""
        sampling = self._config.sampling
        if temperature is not None:
            sampling = sampling.model_copy(update={"temperature": temperature})
        answer = await self._engine.generate(
            prompt, sampling, stop_ids=self._chat.stop_ids, seed=seed & 0x7FFFFFFF, logprobs=False
        )
        if answer.finish_reason != "stop":
            window = self._config.engine.max_model_len
            if len(prompt) + len(answer.ids) >= window:
                raise AnswerCut(f"the window of {window} tokens cut the answer; raise world.engine.max_model_len")
            raise ParseError(
                f"the answer did not end within world.sampling.max_tokens={self._config.sampling.max_tokens}"
            )
        return answer


def _text(q: DreamQuery, step: DreamStep) -> str:
    """The answer that the experience model would have written for a step."""
    return "".join(answer_parts(Transition(q.state, q.action, step.state, step.reward, step.done, step.reasoning)))
