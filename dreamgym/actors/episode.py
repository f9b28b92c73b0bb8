"""One episode, token by token: the policy acts, a world answers, and what was sampled is what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dreamgym.config import PolicyConfig
from dreamgym.envs.base import Environment
from dreamgym.inference.engine import ContextFull, Generation
from dreamgym.models.answers import FORMATS, Answer
from dreamgym.models.answers.calls import Tool, misfit
from dreamgym.models.chat import ChatFormat
from dreamgym.models.conversation import Conversation, LineRule
from dreamgym.types import Fold, StepResult, Task, Trajectory, Transition, World, stable_id, turns_of

Act = Callable[[list[int], int], Awaitable[Generation]]
"""(prompt ids, sampling seed) -> what the policy's engine sampled."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """An episode to play; `seed` drives the policy's sampling and the dream's, `temperature` is the policy's.

    A dream with steps `before` goes on from a recorded episode: they are read, and are none of its own.
    """

    id: str
    task: Task
    seed: int
    temperature: float
    group: str = ""
    iteration: int = -1
    fold: Fold = "train"
    world: World = "dream"
    before: tuple[Transition, ...] = ()

    def trajectory(self) -> Trajectory:
        """Its record, still without a step."""
        return Trajectory(
            self.id,
            self.task,
            "policy",
            self.world,
            fold=self.fold,
            group=self.group,
            iteration=self.iteration,
        )

    def turn_seed(self, turn: int) -> int:
        return int(stable_id(self.seed, "policy", turn), 16) & 0x7FFFFFFF


async def play(
    episode: EpisodeSpec,
    env: Environment,
    act: Act,
    chat: ChatFormat,
    policy: PolicyConfig,
    line: LineRule | None = None,
) -> Trajectory:
    """Play one episode in a real or dreamed environment; an answer is read by `policy.format` and `chat.tools`.

    What the policy reads at each turn is told by `Conversation`: the ids of the samples are exactly what the engine
    read and wrote. A full context, of the policy or of the dream, truncates the episode before the step that it has no
    room for (`info` says `context_full`); one that has no room for the first turn is no episode at all.

    `info` of the trajectory counts tokens: `policy_read` (prompts) and `policy_cached` (of those from the prefix
    cache), and where a dream answered `dream_read`, `dream_cached`, `dream_written` and `dream_dreamed`, the steps
    that were dreamed for this episode and not shared by another of its group; `dream_overruled` counts those of them
    that further answers of the dream kept from being a success.
    """
    trajectory = episode.trajectory()
    result = await env.reset(episode.task)
    if result.status != "ok":
        return _failed(trajectory, result)
    talk = _begun(Conversation(chat, policy, episode.task, _first(episode, result), line), episode.before)
    trajectory.samples = talk.samples
    state = result.observation
    while not result.done:
        try:
            answer = await act(talk.prompt, episode.turn_seed(len(trajectory.steps)))
        except ContextFull as error:
            if not trajectory.steps:
                return _failed(trajectory, StepResult("", info={"error": f"the policy cannot begin: {error}"}))
            trajectory.truncated, trajectory.info["context_full"] = True, 1.0
            break
        _count(trajectory, "policy", {"read": answer.prompt_tokens, "cached": answer.cached_tokens})
        finished = answer.finish_reason == "stop"
        said = talk.read(answer.ids, finished)
        turn: list[Transition] = []
        async for done in _done(said, env, policy, chat.tools):
            result = done.result
            if result.info.get("context_full"):
                continue
            if "dreamed" in result.info:
                _count(trajectory, "dream", result.info)
            if result.status != "ok":
                return _failed(trajectory, result)
            turn.append(_transition(state, said, done, same_turn=bool(turn)))
            trajectory.steps.append(turn[-1])
            state = state if done.malformed else result.observation
        if turn:
            talk.sampled(answer.ids, answer.logprobs, answer.versions, finished)
        if result.info.get("context_full"):
            trajectory.info["context_full"] = 1.0
            break
        if not result.done:
            talk.observed(turn)
    trajectory.truncated = trajectory.truncated or result.truncated
    trajectory.success = result.success
    return trajectory


def _first(episode: EpisodeSpec, result: StepResult) -> str:
    """The state in which the conversation begins."""
    return episode.before[0].state if episode.before else result.observation


def _begun(talk: Conversation, before: Sequence[Transition]) -> Conversation:
    """A conversation after recorded turns, which carry no loss; samples that they alone fill are gone."""
    for turn in turns_of(before):
        said = turn if any(step.malformed for step in turn) else [replace(turn[0], answer=""), *turn[1:]]
        talk.written(said, taught=False)
        talk.observed(said)
    del talk.samples[:-1]
    return talk


def _count(trajectory: Trajectory, who: str, told: dict[str, Any]) -> None:
    """Add the counts that an answer came with to those of the episode."""
    for name in ("read", "cached", "written", "dreamed", "overruled"):
        if name in told:
            key = f"{who}_{name}"
            trajectory.info[key] = trajectory.info.get(key, 0.0) + float(told[name])


class _Done(NamedTuple):
    """One action of an answer and what the world said to it; `malformed` where it was none."""

    action: str
    malformed: str
    result: StepResult


async def _done(said: Answer, env: Environment, policy: PolicyConfig, tools: Sequence[Tool]) -> AsyncIterator[_Done]:
    """Do what an answer says, one call after the other, until the episode is over or a step failed.

    Where something cannot be done the world stands still, a step passes, and a sentence says why.
    """
    if said.malformed:
        yield _Done("", said.malformed, await _refused(said.malformed, said.why, env, policy))
    elif not tools:
        yield _Done(said.action, "", await env.step(said.action))
    for call in said.calls:
        problem = misfit(tools, call)
        if problem:
            done = _Done("", "misfit_call", await _refused("misfit_call", problem, env, policy))
        else:
            done = _Done(call.text, "", await env.step(call.text))
        yield done
        if done.result.done or done.result.status != "ok" or done.result.info.get("context_full"):
            return


async def _refused(malformed: str, why: str, env: Environment, policy: PolicyConfig) -> StepResult:
    result = await env.skip()
    return replace(
        result,
        observation=FORMATS[policy.format].refusal(malformed, why),
        reward=-policy.malformed_penalty if policy.malformed == "penalty" else 0.0,
        terminated=policy.malformed == "end",
        info=result.info | {"valid": False, "success": False},
    )


def _transition(state: str, said: Answer, done: _Done, same_turn: bool) -> Transition:
    result = done.result
    return Transition(
        state=state,
        action=done.action,
        next_state=result.observation,
        reward=result.reward,
        done=result.terminated,
        reasoning=str(result.info.get("reasoning", "")),
        valid=bool(result.info.get("valid", True)),
        thought="" if same_turn else said.thought,
        answer="" if same_turn or said.text == done.action else said.text,
        malformed=done.malformed,
        same_turn=same_turn,
    )


def _failed(trajectory: Trajectory, result: StepResult) -> Trajectory:
    trajectory.status = "env_failed"
    trajectory.info["failed_step"] = float(len(trajectory.steps))
    trajectory.error = str(result.info.get("error", "unknown"))
    return trajectory
