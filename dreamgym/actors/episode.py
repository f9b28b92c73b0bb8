"""One episode, token by token: the policy acts, a world answers, and what was sampled is what is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from dreamgym.config import PolicyConfig
from dreamgym.envs.base import Environment
from dreamgym.inference.engine import ContextFull, Generation
from dreamgym.models.answers import FORMATS, Answer
from dreamgym.models.chat import ChatFormat
from dreamgym.models.conversation import Conversation
from dreamgym.types import Fold, StepResult, Task, Trajectory, Transition, World, stable_id

Act = Callable[[list[int], int], Awaitable[Generation]]
"""(prompt ids, sampling seed) -> what the policy's engine sampled."""


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """An episode to play; `seed` drives the policy's sampling and the dream's, `temperature` is the policy's."""

    id: str
    task: Task
    seed: int
    temperature: float
    group: str = ""
    iteration: int = -1
    fold: Fold = "train"
    world: World = "dream"

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


async def play(episode: EpisodeSpec, env: Environment, act: Act, chat: ChatFormat, policy: PolicyConfig) -> Trajectory:
    """Play one episode in a real or dreamed environment; an answer is read by `policy.format`.

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
    talk = Conversation(chat, policy, episode.task, result.observation)
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
        said = FORMATS[policy.format].read(chat.decode(answer.ids), finished=finished)
        result = await _answered(said, env, policy)
        if result.info.get("context_full"):
            trajectory.info["context_full"] = 1.0
            break
        talk.sampled(answer.ids, answer.logprobs, answer.versions, finished)
        if "dreamed" in result.info:
            _count(trajectory, "dream", result.info)
        if result.status != "ok":
            return _failed(trajectory, result)
        step = _transition(state, said, result)
        trajectory.steps.append(step)
        state = state if said.malformed else result.observation
        if not result.done:
            talk.observed(step)
    trajectory.truncated = trajectory.truncated or result.truncated
    trajectory.success = result.success
    return trajectory


def _count(trajectory: Trajectory, who: str, told: dict[str, Any]) -> None:
    """Add the counts that an answer came with to those of the episode."""
    for name in ("read", "cached", "written", "dreamed", "overruled"):
        if name in told:
            key = f"{who}_{name}"
            trajectory.info[key] = trajectory.info.get(key, 0.0) + float(told[name])


async def _answered(said: Answer, env: Environment, policy: PolicyConfig) -> StepResult:
    """What the world says to an action; where the answer is none, it stands still, and a sentence says why."""
    if not said.malformed:
        return await env.step(said.action)
    result = await env.skip()
    return replace(
        result,
        observation=FORMATS[policy.format].refusal(said.malformed),
        reward=-policy.malformed_penalty if policy.malformed == "penalty" else 0.0,
        terminated=policy.malformed == "end",
        info=result.info | {"valid": False, "success": False},
    )


def _transition(state: str, said: Answer, result: StepResult) -> Transition:
    return Transition(
        state=state,
        action=said.action,
        next_state=result.observation,
        reward=result.reward,
        done=result.terminated,
        reasoning=str(result.info.get("reasoning", "")),
        valid=bool(result.info.get("valid", True)),
        thought=said.thought,
        answer=said.text if said.text != said.action else "",
        malformed=said.malformed,
    )


def _failed(trajectory: Trajectory, result: StepResult) -> Trajectory:
    trajectory.status = "env_failed"
    trajectory.info["failed_step"] = float(len(trajectory.steps))
    trajectory.error = str(result.info.get("error", "unknown"))
    return trajectory
