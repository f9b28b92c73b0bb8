"""Plays the dream as its agent would: whole paths of actions, answered from what was dreamed before where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from dreamgym.config import RunConfig
from dreamgym.data import judged
from dreamgym.data.judged import JudgedStep, Verdict
from dreamgym.envs.base import env_tools, rule_of, success_above, told_by
from dreamgym.errors import DataError, EnvError
from dreamgym.models.answers.calls import CallError, misfit, read_call
from dreamgym.play.beside import Beside, RealSide
from dreamgym.play.tasks import PlayTask
from dreamgym.replay.records import Demo
from dreamgym.serve.dream import DreamEnvironment, Memo, World
from dreamgym.types import MAX_REWARD, MAX_TEXT, StepResult, Transition, stable_id

KEPT = 20_000
"""Dreamed steps that are kept at hand; then all are forgotten, and dreamed again when they are asked for."""
Over = Literal["", "won", "lost", "cut", "full", "unreadable", "failed"]
"""How an episode ended: by the dream's word (won, lost), at `env.max_steps`, in a full context, without a readable
answer, or by a failure of the engine."""


@dataclass(slots=True)
class Turn:
    """One step: what the dream said, or why it said nothing that can be read.

    shown      the demonstrations that it was shown, best first
    overruled  the first answer solved the task, and further ones outvoted it
    judged     what a person has said of it; empty where nobody has
    """

    step: Transition
    shown: tuple[Demo, ...] = ()
    error: str = ""
    overruled: bool = False
    judged: Verdict | Literal[""] = ""


@dataclass(slots=True)
class Played:
    """An episode so far; `beside` is the real one of the same actions, where it was asked for."""

    task: PlayTask
    draw: int
    turns: list[Turn] = field(default_factory=list)
    over: Over = ""
    beside: RealSide | None = None

    @property
    def actions(self) -> list[str]:
        return [turn.step.action for turn in self.turns]

    @property
    def steps(self) -> list[Transition]:
        """What was dreamed, as an episode."""
        return [turn.step for turn in self.turns if not turn.error]


@dataclass(frozen=True, slots=True)
class Right:
    """What a person says would have been right."""

    next_state: str
    reward: float = 0.0
    done: bool = False
    reasoning: str = ""


class Player:
    """Plays the tasks of a run. It keeps no episode: whoever plays names the actions so far.

    So a step back is a shorter list of actions. The same task, draw and actions lead to the same answers, as within a
    group of training; another `draw` dreams anew.
    """

    def __init__(self, config: RunConfig, world: World, model: str, tasks: Mapping[str, PlayTask]) -> None:
        """`model` names the experience model in what is judged.

        Raises:
            DataError: the file of judged steps is broken.
        """
        self.config, self.model, self.tasks = config, model, tasks
        self.file = config.run_dir / judged.FILE
        self._world = world
        self._memo: Memo = {}
        self._beside = Beside(config.env)
        self._above = success_above(config.env)
        self._tools = env_tools(config.env.name)
        known = judged.read(self.file) if self.file.is_file() else []
        self._judged: dict[str, Verdict] = {step.id: step.judged for step in known}

    def action(self, typed: str) -> str:
        """What was typed, as the environment would read it from the agent.

        Raises:
            DataError: it is empty, too long or, where the environment has tools, no call that fits one of them.
        """
        typed = typed.strip()
        if not typed or len(typed) > MAX_TEXT:
            raise DataError(f"an action is some text of at most {MAX_TEXT:,} characters; type one.")
        if not self._tools:
            return typed
        try:
            call = read_call(typed)
        except CallError as error:
            raise DataError(f"this environment has tools, and what was typed is no call of one: {error}.") from None
        if problem := misfit(self._tools, call):
            raise DataError(f"the call does not fit: {problem}.")
        return call.text

    async def play(self, task_id: str, draw: int, actions: Sequence[str], beside: bool = False) -> Played:
        """An episode of these actions; those that were dreamed before are not dreamed again.

        Raises:
            DataError: there is no such task, or the episode is over before the last action.
        """
        played = Played(self._task(task_id), draw)
        task = played.task.task
        if len(self._memo) > KEPT:
            self._memo.clear()
        seed = int(stable_id(self.config.seed, "play", draw), 16) & 0x7FFFFFFF
        env = DreamEnvironment(
            self._world,
            self.config.env.max_steps,
            seed,
            self._memo,
            f"play-{task_id}-{draw}",
            self.config.world.votes,
            self._above,
            tell=True,
        )
        state = (await env.reset(task)).observation
        for count, action in enumerate(actions, 1):
            if played.over:
                raise DataError(f"the episode is over after {count - 1} steps; step back to try another action.")
            result = await env.step(action)
            played.over = _over(result)
            if played.over == "failed":  # which says nothing of the dream: whoever asks again gets another answer
                self._memo.pop((seed, (task_id, *actions[:count])), None)
            if played.over == "full":
                break
            played.turns.append(_turn(state, action, result))
            played.turns[-1].judged = self._judged.get(self._id(played), "")
            state = result.observation
        if beside:
            played.beside = await self._beside.along(task, list(actions))
        return played

    async def judge(
        self,
        task_id: str,
        draw: int,
        actions: Sequence[str],
        verdict: Verdict,
        right: Right | None = None,
        beside: bool = False,
    ) -> JudgedStep:
        """Write down what a person says of the last of these steps; later words replace earlier ones.

        Where the dream is wrong, the truth is what the person says or else, with `beside`, what the real environment
        said, if the two had not parted before.

        Raises:
            DataError: there is no such step, or the verdict does not fit it.
        """
        played = await self.play(task_id, draw, actions, beside)
        if not actions or len(played.turns) < len(actions):
            raise DataError("there is no step to judge; type an action first.")
        *before, last = played.turns
        if played.over == "failed":
            raise DataError(f"there is no answer to judge ({last.error}); ask again.")
        if last.error and verdict != "unreadable":
            raise DataError("the dream gave no readable answer here, so it is neither right nor wrong.")
        if right is not None and verdict == "right":
            raise DataError("a right answer needs no other one; judge it wrong to say what is right.")
        history = tuple(turn.step for turn in before)
        truth, by = self._truth(played, verdict, right)
        if by and truth is not None:
            truth = replace(truth, reasoning=truth.reasoning or self._reasoning(played.task, history, truth))
        name = self._id(played)
        step = JudgedStep(
            name, self.model, *played.task, history, last.step, verdict, last.error, truth, by
        )  # fmt: skip
        judged.append(self.file, step)
        self._judged[name] = verdict
        return step

    async def close(self) -> None:
        """End the real environment, where one was started."""
        await self._beside.close()

    def _truth(
        self, played: Played, verdict: Verdict, right: Right | None
    ) -> tuple[Transition | None, Literal["", "person", "real"]]:
        """The last step as it is right, where that is known, and who told it if not the dream."""
        said = played.turns[-1].step
        if verdict == "right":
            return said, ""
        if right is not None:
            if not right.next_state.strip() or len(right.next_state) > MAX_TEXT or abs(right.reward) > MAX_REWARD:
                raise DataError("what is right needs a next state, and a reward that is a number.")
            told = (right.next_state, right.reward, right.done)
            if verdict == "wrong" and told == (said.next_state, said.reward, said.done):
                raise DataError("what was given as right is what the dream said; judge it right, or change it.")
            return Transition(said.state, said.action, *told, reasoning=" ".join(right.reasoning.split())), "person"
        if played.beside is None or len(played.beside.steps) < len(played.turns):
            return None, ""
        *before, real = played.beside.steps
        agreed = all(
            (a.state, a.next_state, a.reward, a.done) == (b.state, b.next_state, b.reward, b.done)
            for a, b in zip(before, played.steps, strict=False)
        )
        return (real, "real") if agreed and real.state == said.state else (None, "")

    def _reasoning(self, task: PlayTask, history: Sequence[Transition], step: Transition) -> str:
        """What the environment's own rule says; empty where it has none, or cannot follow what was dreamed before."""
        rule = rule_of(self.config.env.name)
        if rule is None:
            return ""
        try:
            told = told_by("reason()", rule, task.task, list(history), step)
        except EnvError:
            return ""
        return " ".join(told.split())

    def _task(self, task_id: str) -> PlayTask:
        if task_id not in self.tasks:
            raise DataError(f"no task '{task_id}' in this run; choose one of its {len(self.tasks):,} tasks.")
        return self.tasks[task_id]

    def _id(self, played: Played) -> str:
        """Of the last step: what was asked and what was answered, for a model that was tuned anew answers otherwise."""
        last = played.turns[-1]
        said = (last.step.next_state, last.step.reward, last.step.done, last.error)
        return stable_id("judged", self.model, played.task.task.id, played.draw, *played.actions, *said)


def _over(result: StepResult) -> Over:
    if result.status != "ok":
        return "unreadable" if "shown" in result.info else "failed"
    if result.info.get("context_full"):
        return "full"
    if result.terminated:
        return "won" if result.success else "lost"
    return "cut" if result.truncated else ""


def _turn(state: str, action: str, result: StepResult) -> Turn:
    told = result.info
    done = (result.observation, result.reward, result.terminated, str(told.get("reasoning", "")))
    shown, error = told.get("shown", ()), str(told.get("error", ""))
    return Turn(Transition(state, action, *done), shown, error, bool(told.get("overruled")))
