"""Reasoning for every transition to learn from, and thoughts of the expert: by rule, by a teacher LLM, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dreamgym.config import RunConfig
from dreamgym.data import reasoning
from dreamgym.data.teacher import Question, ask, questions, thought_questions
from dreamgym.envs.base import thought_rule, told_by
from dreamgym.errors import ConfigError
from dreamgym.runs.stage import Stage, stage
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.telemetry.console import console, progress
from dreamgym.types import Trajectory


def annotate(config: RunConfig) -> None:
    """The stage: `data/train.parquet` with reasoning in each step, as `data/annotated.parquet`.

    Where `annotate.thoughts` asks for them, the expert's actions get thoughts as well. What is there already (from a
    user's file) is kept. What the teacher could not explain stays empty and is counted.

    Raises:
        ConfigError: the environment has no rule, or the teacher's settings are wrong.
        EnvError: the environment's rule fails.
        EngineError: the teacher gives nothing usable, time after time.
    """
    with stage(config, "annotate", ["annotate"], ["collect"], ["data/annotated.parquet"]) as current:
        if current.done:
            return
        data = current.run_dir / "data"
        trajectories = read_parquet(data / "train.parquet")
        if config.annotate.by == "rule":
            by_rule(config.env.name, trajectories)
        if config.annotate.thoughts == "rule":
            think_by_rule(config.env.name, trajectories)
        if "teacher" in (config.annotate.by, config.annotate.thoughts):
            _by_teacher(config, trajectories, data / "annotations.jsonl", current)
        write_parquet(data / "annotated.parquet", trajectories)
        steps = [step for t in trajectories for step in t.steps]
        explained = sum(bool(step.reasoning) for step in steps)
        words = sum(len(step.reasoning.split()) for step in steps)
        current.summary |= {
            "by": config.annotate.by,
            "steps": len(steps),
            "explained": explained,
            "words_each": round(words / max(explained, 1), 1),
        }
        if config.annotate.thoughts != "none":
            current.summary["thoughts"] = sum(bool(step.thought) for step in steps)


def by_rule(env_name: str, trajectories: list[Trajectory]) -> None:
    """Fill in reasoning, in place, by the environment's static `reason(task, history, transition)`.

    Raises:
        ConfigError: the environment has no such rule.
        EnvError: the rule raises or gives no text.
    """
    with progress("annotate", sum(len(t.steps) for t in trajectories)) as bar:
        for trajectory in reasoning.by_rule(env_name, trajectories):
            bar.advance(len(trajectory.steps))


def think_by_rule(env_name: str, trajectories: list[Trajectory]) -> None:
    """Fill in thoughts of the expert's actions, in place, by the environment's static `think(task, history, action)`.

    Raises:
        ConfigError: the environment has no such rule.
        EnvError: the rule raises or gives no text.
    """
    rule = thought_rule(env_name)
    if rule is None:
        raise ConfigError(f"annotate.thoughts: '{env_name}' has no rule think(); set it to teacher or none.")
    for trajectory in trajectories:
        for index, step in enumerate(trajectory.steps):
            if step.by_expert and not step.thought and not step.same_turn:
                where = f"env.name: think() of '{env_name}' at step {index} of trajectory {trajectory.id}"
                thought = told_by(where, rule, trajectory.task, trajectory.steps[:index], step.action)
                trajectory.steps[index] = replace(step, thought=thought.strip())


def _by_teacher(config: RunConfig, trajectories: list[Trajectory], kept: Path, current: Stage) -> None:
    asked: list[Question] = []
    if config.annotate.by == "teacher":
        asked += questions(trajectories)
    if config.annotate.thoughts == "teacher":
        asked += thought_questions(trajectories)
    with progress("annotate", len(asked)) as bar:
        answers = ask(config.annotate.teacher, asked, kept, bar.advance)
    reasoning.fill_in(trajectories, answers)
    current.tokens = answers.prompt_tokens + answers.completion_tokens
    current.summary |= {
        "left_out": answers.left_out,
        "retries": answers.retries,
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
    }
    if answers.left_out:
        console.print(f"[yellow]{answers.left_out} of {len(asked)} steps got no usable explanation and stay without[/]")
