"""Explanations from a teacher LLM behind any OpenAI-compatible endpoint: concurrent, retried, resumable, counted."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import BaseModel, Field, ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    RetryError,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from dreamgym.config import TeacherConfig
from dreamgym.config.credentials import credential
from dreamgym.errors import ConfigError, DataError, EngineError
from dreamgym.runtime import event_loop
from dreamgym.types import Task, Trajectory, Transition, stable_id

FAILURES_IN_A_ROW = 16
BACKOFF = wait_exponential_jitter(initial=1.0, max=30.0, jitter=0.5)
LONGEST_WAIT_S = 120.0
MAX_ANSWER_BYTES = 2**20
SYSTEM = (
    "You explain how a text environment works. You are shown one step of an episode. In one to three short sentences "
    "say why this action in this state leads to this next state and reward. Name the facts of the task, the history "
    "and the state that decide it, so that a reader of your explanation alone could predict the next state. Answer "
    "with the explanation only."
)

THINKING = (
    "You write down what an agent thinks in a text environment. You are shown its task, the history, the state and the "
    "action that it takes. In one or two short sentences write the thought that leads to this action, from what the "
    "agent can know at that moment. Do not tell what follows. Answer with the thought only."
)


@dataclass(frozen=True)
class Question:
    """Something to be told of one transition; `key` names it, `system` asks for it, `prompt` shows it."""

    key: str
    prompt: str
    system: str = SYSTEM

    def digest(self, model: str) -> str:
        """What an answer belongs to: a kept answer to another prompt or of another model is not used."""
        return stable_id(model, self.system, self.prompt)


@dataclass
class Answers:
    """What was told by key, how many questions were left out (`fault`: why the last was), and all tokens spent."""

    told: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    fault: str = ""
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Kept(BaseModel):
    """A line of the answers' file."""

    key: str
    digest: str
    reasoning: str
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)


class _Unusable(Exception):
    """An answer worth another try: malformed, empty, cut off, or a passing fault; not before `wait_s` seconds."""

    def __init__(self, problem: str, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.wait_s = wait_s


def questions(trajectories: Iterable[Trajectory]) -> Iterator[Question]:
    """Every transition that has no reasoning yet."""
    for trajectory in trajectories:
        for index, step in enumerate(trajectory.steps):
            if not step.reasoning and not step.malformed:
                yield Question(f"{trajectory.id}/{index}", prompt_of(trajectory.task, trajectory.steps[:index], step))


def thought_questions(trajectories: Iterable[Trajectory]) -> Iterator[Question]:
    """Every action of the expert that has no thought yet."""
    for trajectory in trajectories:
        for index, step in enumerate(trajectory.steps):
            if step.by_expert and not step.thought and not step.same_turn:
                shown = _situation(trajectory.task, trajectory.steps[:index], step)
                prompt = "\n\n".join([*shown, "What does the agent think before it acts?"])
                yield Question(f"{trajectory.id}/{index}/thought", prompt, THINKING)


def prompt_of(task: Task, history: Sequence[Transition], step: Transition) -> str:
    """What the teacher reads: task, history, state, action, and what followed."""
    told = [
        *_situation(task, history, step),
        f"Next state: {step.next_state}",
        f"Reward: {step.reward:g}",
        f"Episode over: {'yes' if step.done else 'no'}",
        "Why does this follow?",
    ]
    return "\n\n".join(told)


def _situation(task: Task, history: Sequence[Transition], step: Transition) -> list[str]:
    """What is known before anything follows: task, history, state, action."""
    told = [f"Task: {task.instruction}"]
    if history:
        told.append("History:\n" + "\n".join(f"[state] {t.state}\n[action] {t.action}" for t in history))
    return [*told, f"State: {step.state}", f"Action: {step.action}"]


def ask(config: TeacherConfig, asked: Sequence[Question], kept: Path, tick: Callable[[float], None]) -> Answers:
    """Answer all questions; every answer is appended to `kept` as it arrives and never asked for again.

    `tick(n)` is told of every n questions dealt with.

    Raises:
        ConfigError: no endpoint or model is named, or the endpoint refuses the request (key, model, address).
        DataError: a line of `kept` is broken.
        EngineError: `FAILURES_IN_A_ROW` questions in a row, or all of them, got no usable answer.
    """
    for name in ("base_url", "model"):
        if not getattr(config, name):
            raise ConfigError(f"annotate.teacher.{name}: empty; name the teacher's endpoint and model.")
    answers = Answers()
    todo = _resume(config, asked, kept, answers)
    tick(len(asked) - len(todo))
    if todo:
        event_loop.run(_ask_all(config, todo, kept, answers, tick))
    if asked and not answers.told:
        raise EngineError(
            f"annotate.teacher: not one usable answer from {config.base_url} ({answers.fault}); mend it and run again."
        )
    return answers


def _resume(config: TeacherConfig, asked: Sequence[Question], kept: Path, answers: Answers) -> list[Question]:
    """Take over the kept answers; the questions without one."""
    digests = {question.key: question.digest(config.model) for question in asked}
    for line in _kept_lines(kept):
        answers.prompt_tokens += line.prompt_tokens
        answers.completion_tokens += line.completion_tokens
        if digests.get(line.key) == line.digest and line.reasoning:
            answers.told[line.key] = line.reasoning
    return [question for question in asked if question.key not in answers.told]


def _kept_lines(kept: Path) -> Iterator[_Kept]:
    """The lines of an earlier run; a last line that was cut off is removed from the file."""
    if not kept.exists():
        return
    data = kept.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(kept, len(whole))
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            yield _Kept.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise DataError(f"{kept}:{number}: {problem}; remove the line and annotate again.") from None


async def _ask_all(
    config: TeacherConfig, todo: Sequence[Question], kept: Path, answers: Answers, tick: Callable[[float], None]
) -> None:
    key = credential(config.api_key_env)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=config.concurrency)
    kept.parent.mkdir(parents=True, exist_ok=True)
    waiting = iter(todo)
    row = 0
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=None) as client:
        with kept.open("a", encoding="utf-8") as file:

            async def work() -> None:
                nonlocal row
                for question in waiting:
                    line = await _explain(client, config, question, answers)
                    file.write(line.model_dump_json() + "\n")
                    file.flush()
                    row = 0 if line.reasoning else row + 1
                    tick(1)
                    if row >= FAILURES_IN_A_ROW:
                        raise EngineError(
                            f"annotate.teacher: {row} transitions in a row got no usable answer from "
                            f"{config.base_url} ({answers.fault}); answers so far are kept, mend it and run this again."
                        )

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(config.concurrency, len(todo))):
                        group.create_task(work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None


async def _explain(client: httpx.AsyncClient, config: TeacherConfig, question: Question, answers: Answers) -> _Kept:
    """One question, tried `attempts` times; the line to keep, without reasoning where no answer was usable."""
    line = _Kept(
        key=question.key, digest=question.digest(config.model), reasoning="", prompt_tokens=0, completion_tokens=0
    )
    try:
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(config.attempts), wait=_wait, retry=retry_if_exception_type(_Unusable)
        ):
            with attempt:
                answers.retries += attempt.retry_state.attempt_number > 1
                line.reasoning = await _request(client, config, question, line)
    except RetryError as error:
        answers.fault = str(error.last_attempt.exception())
        answers.left_out += 1
    answers.prompt_tokens += line.prompt_tokens
    answers.completion_tokens += line.completion_tokens
    if line.reasoning:
        answers.told[question.key] = line.reasoning
    return line


def _wait(state: RetryCallState) -> float:
    """Seconds until the next try: exponential, or as long as the endpoint asked for."""
    fault = state.outcome.exception() if state.outcome else None
    asked = fault.wait_s if isinstance(fault, _Unusable) else 0.0
    return max(BACKOFF(state), min(asked, LONGEST_WAIT_S))


async def _request(client: httpx.AsyncClient, config: TeacherConfig, question: Question, line: _Kept) -> str:
    """One request under its deadline; its tokens are added to `line` whether or not the answer is usable."""
    body = {
        "model": config.model,
        "messages": [{"role": "system", "content": question.system}, {"role": "user", "content": question.prompt}],
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
    }
    try:
        async with (
            asyncio.timeout(config.timeout_s),
            client.stream("POST", f"{config.base_url.rstrip('/')}/chat/completions", json=body) as response,
        ):
            answer = await _bounded(response)
    except TimeoutError:
        raise _Unusable(f"no answer within {config.timeout_s:g} s") from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"annotate.teacher.base_url: '{config.base_url}' is no usable address ({error}).") from error
    except httpx.RequestError as error:
        raise _Unusable(f"{type(error).__name__}: {error}") from error
    if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
        wait_s = response.headers.get("retry-after", "")
        raise _Unusable(f"HTTP {response.status_code}", float(wait_s) if re.fullmatch(r"[0-9]+", wait_s) else 0.0)
    if response.status_code != 200:
        told = answer.decode(errors="replace")
        if key := credential(config.api_key_env):  # some endpoints say which key they refuse
            told = told.replace(key, "[key]")
        raise ConfigError(
            f"annotate.teacher: {config.base_url} refuses the request with HTTP {response.status_code} "
            f"({told[:200]!r}); check base_url, model and the key in {config.api_key_env}."
        )
    return _content(answer, line)


async def _bounded(response: httpx.Response) -> bytes:
    """The body, which must not be endless."""
    read = bytearray()
    async for chunk in response.aiter_bytes():
        read += chunk
        if len(read) > MAX_ANSWER_BYTES:
            raise _Unusable(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(read)


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = Field(None, ge=0, le=10**9)
    completion_tokens: int | None = Field(None, ge=0, le=10**9)


class _Completion(BaseModel):
    """What is read of an answer; an endpoint may tell more."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


def _content(answer: bytes, line: _Kept) -> str:
    """The explanation on one line."""
    try:
        completion = _Completion.model_validate_json(answer)
    except ValidationError as error:
        raise _Unusable(f"malformed answer ({error.errors()[0]['type']})") from None
    usage, choice = completion.usage or _Usage(), completion.choices[0]
    line.prompt_tokens += usage.prompt_tokens or 0
    line.completion_tokens += usage.completion_tokens or 0
    if choice.finish_reason == "length":
        raise _Unusable("the explanation is cut off; raise annotate.teacher.max_tokens")
    text = " ".join((choice.message.content or "").split())
    if not text:
        raise _Unusable("empty answer")
    return text
