"""Settings of the real environment, of the seed data, and of who explains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dreamgym.config.base import Operational, Section, Url


class EnvConfig(Section):
    """The real environment: what is collected from, measured in, and dreamed of."""

    name: str = "mapreader"
    """A registered name (see docs/environments/index.md), or `module:Class` of your own environment."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the environment, such as {numLocations: 5}."""
    max_steps: int = Field(15, ge=1)
    """An episode is truncated after this many actions, in the real environment and in the dream."""
    success_above: float | None = None
    """An end with a reward above this is a success, where nothing says what is one; null is as the class has it."""
    workers: Operational[int] = Field(2, ge=1)
    """How many environments run side by side."""
    timeout_s: Operational[float] = Field(30.0, gt=0)
    """Deadline of one reset or step of a real environment, in seconds."""


class CollectConfig(Section):
    """Offline seed data: who acts in the real environment, and how often."""

    tasks: int = Field(600, ge=1)
    """How many tasks of the train fold are visited."""
    expert: float = Field(1.0, ge=0)
    """Expert episodes a task (a fraction visits that share of the tasks)."""
    noisy: float = Field(2.0, ge=0)
    """Noisy-expert episodes a task."""
    noise: float = Field(0.5, ge=0, le=1)
    """Chance that a noisy expert leaves the path for one step."""
    random: float = Field(1.0, ge=0)
    """Random episodes a task."""
    slips: float = Field(0.2, ge=0, le=1)
    """Chance that an off-path action is the expert's own with one word wrong; a dream must not let that pass."""
    invalid: float = Field(0.3, ge=0, le=1)
    """Chance that another off-path action is drawn from what is mostly not possible here; a dream must know it too."""
    untimely: float = Field(0.4, ge=0, le=1)
    """Chance that such an action is one that the expert takes elsewhere in this task, as a greedy policy would."""
    garbled: float = Field(0.3, ge=0, le=1)
    """Chance that it is else not one of all commands, but garbled from two, as an exploring policy misspells."""
    heldout_tasks: int = Field(60, ge=1)
    """Tasks of the dev fold, collected the same way, that measure the fidelity of the dream."""
    files: list[Path] = Field(default_factory=list)
    """Your own trajectories (JSONL or Parquet) to use in place of collecting."""
    format: Literal["plain", "react", "tags", "native"] = "plain"
    """How the actions in those files are written: thoughts are taken from them as `policy.format` says."""


class TeacherConfig(Section):
    """A teacher LLM behind an OpenAI-compatible endpoint that explains transitions."""

    base_url: Operational[Url] = ""
    """Such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """The model's name at that endpoint."""
    api_key_env: Operational[str] = "OPENAI_API_KEY"
    """The environment variable that holds the key; it may be unset for a local endpoint."""
    concurrency: Operational[int] = Field(16, ge=1)
    """Requests in flight at once."""
    max_tokens: int = Field(256, ge=1)
    """The longest explanation, in tokens."""
    temperature: float = Field(0.3, ge=0)
    """Sampling temperature of the teacher."""
    attempts: Operational[int] = Field(5, ge=1)
    """Tries for one transition before it is left out and counted."""
    timeout_s: Operational[float] = Field(60.0, gt=0)
    """Deadline of one request, in seconds."""


class AnnotateConfig(Section):
    """Who writes the reasoning R* of every transition."""

    by: Literal["rule", "teacher", "none"] = "rule"
    """rule: the environment's own rule; teacher: an LLM endpoint; none: no reasoning."""
    thoughts: Literal["rule", "teacher", "none"] = "none"
    """Who writes the thoughts of the expert's actions that have none, for a `policy.format` that has them."""
    teacher: TeacherConfig = TeacherConfig()
    """The endpoint, where `by` or `thoughts` is teacher."""
