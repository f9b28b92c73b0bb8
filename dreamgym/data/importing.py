"""Users' own trajectories, JSON Lines or Parquet, checked field by field and brought into the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dreamgym.errors import DataError
from dreamgym.models.answers import FORMATS, MALFORMED, Answer
from dreamgym.models.answers.calls import CallError, read_call
from dreamgym.schema import TRAJECTORY_SCHEMA, check_filled, check_schema, from_batch, readable
from dreamgym.types import MAX_REWARD, MAX_TEXT, Task, Trajectory, Transition, is_success, stable_id

FINAL_STATE = "The task is over."
HELDOUT_SHARE = 0.1
MAX_LINE_BYTES = 16 * 2**20
MAX_STEPS = 10_000
BOM = b"\xef\xbb\xbf"
"""What some editors put before a text."""

Source = Literal["expert", "noisy", "random", "policy"]
GivenFold = Literal["train", "dev"]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S")]
Reward = Annotated[float, Field(ge=-MAX_REWARD, le=MAX_REWARD, allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class UserTask(_Record):
    """The goal; `payload` is what the environment needs to start it, as text or as an object."""

    instruction: Text
    id: Text | None = None
    payload: str | dict[str, Any] = ""


class UserStep(_Record):
    """One step; all but `state` and `action` have a default, and the state of the first is not empty."""

    state: str = Field(max_length=MAX_TEXT)
    action: str = Field(max_length=MAX_TEXT)
    next_state: str | None = Field(None, max_length=MAX_TEXT)
    reward: Reward | None = None
    done: bool | None = None
    reasoning: str = Field("", max_length=MAX_TEXT)
    thought: str = Field("", max_length=MAX_TEXT)
    expert_action: str | None = Field(None, max_length=MAX_TEXT)
    same_turn: bool = False


class UserTrajectory(_Record):
    """One line of a user's file."""

    task: UserTask
    steps: list[UserStep] = Field(min_length=1, max_length=MAX_STEPS)
    source: Source | None = None
    success: bool | None = None
    fold: GivenFold | None = None


class _OwnTask(_Record):
    id: Text
    instruction: Text


class _OwnStep(_Record):
    state: Text
    action: str = Field(max_length=MAX_TEXT)
    reward: Reward
    malformed: str

    @model_validator(mode="after")
    def _acts(self) -> Self:
        if not self.action.strip() and not self.malformed:
            raise ValueError("an action is empty, and nothing says that the answer was malformed")
        if self.malformed and self.malformed not in MALFORMED:
            raise ValueError(f"malformed is '{self.malformed[:40]}', not one of {', '.join(MALFORMED)}")
        return self


class _OwnRow(_Record):
    """What must hold of a `Trajectory` from outside beyond its types."""

    task: _OwnTask
    steps: list[_OwnStep] = Field(min_length=1, max_length=MAX_STEPS)
    source: Source
    world: Literal["real"]
    status: Literal["ok"]
    fold: GivenFold


def import_files(
    files: Sequence[Path],
    env: str,
    seed: int,
    heldout_tasks: int,
    written: str = "plain",
    success_above: float = 0.0,
    calls: bool = False,
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Read files into (train, held-out) trajectories.

    `written` names the format of the actions in them; an answer that does not follow it is kept as a malformed one.
    With `calls` each action is a call of a tool, as `Call.text` writes it.

    Where no trajectory says `fold: dev`, a tenth of the tasks, at most `heldout_tasks`, is held out; which ones
    depends on `seed` and the tasks' ids alone. A last reward above `success_above` is a success, where nothing says so.

    Raises:
        DataError: a file, line or field is wrong, a task is in both folds, or there are too few tasks to hold one out.
    """
    trajectories: list[Trajectory] = []
    explicit = False
    tasks: dict[str, Trajectory] = {}
    for file in files:
        for where, trajectory, fold_given in _read(file, env, written, success_above):
            _check_task(where, trajectory, tasks)
            if calls:
                trajectory.steps = [_called(f"{where}: steps[{n}]", step) for n, step in enumerate(trajectory.steps)]
            explicit |= fold_given and trajectory.fold == "dev"
            trajectory.id = stable_id(env, trajectory.task.id, trajectory.source, len(trajectories))
            trajectories.append(trajectory)
    if not trajectories:
        raise DataError(f"collect.files: {', '.join(map(str, files))} hold no trajectory; give at least two tasks.")
    if not explicit:
        _hold_out(trajectories, seed, heldout_tasks)
    train = [t for t in trajectories if t.fold == "train"]
    if not train:
        raise DataError("collect.files: every trajectory says fold 'dev'; leave 'fold' out of those to learn from.")
    return train, [t for t in trajectories if t.fold == "dev"]


def _called(where: str, step: Transition) -> Transition:
    """A step whose action is written as calls are; raises DataError where it is none."""
    if step.malformed:
        return step
    try:
        call = read_call(step.action).text
        expert = read_call(step.expert_action).text if step.expert_action else ""
    except CallError as error:
        raise DataError(f"{where}.action: the environment has tools, but this is no call of one ({error}).") from error
    return replace(step, action=call, expert_action=expert)


def _hold_out(trajectories: list[Trajectory], seed: int, heldout_tasks: int) -> None:
    ids = sorted({t.task.id for t in trajectories}, key=lambda task_id: stable_id(seed, "heldout", task_id))
    if len(ids) < 2:
        raise DataError("collect.files: only one task; a second one is needed to measure the dream on (or fold 'dev').")
    chosen = set(ids[: max(1, min(heldout_tasks, int(len(ids) * HELDOUT_SHARE)))])
    for trajectory in trajectories:
        trajectory.fold = "dev" if trajectory.task.id in chosen else "train"


def _check_task(where: str, trajectory: Trajectory, seen: dict[str, Trajectory]) -> None:
    """A task id means one instruction, payload and first state, and lies in one fold, over all files."""
    task, before = trajectory.task, seen.setdefault(trajectory.task.id, trajectory)
    for name in ("instruction", "payload", "first_state"):
        if getattr(before.task, name) != getattr(task, name):
            what = "first state" if name == "first_state" else name
            raise DataError(
                f"{where}: task.id: '{task.id}' has another {what} in an earlier line; make the ids unique."
            )
    if before.fold != trajectory.fold:
        raise DataError(
            f"{where}: fold: task '{task.id}' is in '{before.fold}' and in '{trajectory.fold}'; a task belongs to one "
            "fold."
        )


def _read(file: Path, env: str, written: str, above: float) -> Iterator[tuple[str, Trajectory, bool]]:
    """(place, trajectory, whether its fold was given) of each trajectory of a file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; correct collect.files.")
    if file.suffix == ".parquet":
        yield from _read_parquet(file, env, written, above)
    elif file.suffix in (".jsonl", ".json", ".ndjson"):
        yield from _read_jsonl(file, env, written, above)
    else:
        raise DataError(f"{file}: unknown kind '{file.suffix}'; use .jsonl (one trajectory a line) or .parquet.")


def _read_jsonl(file: Path, env: str, written: str, above: float) -> Iterator[tuple[str, Trajectory, bool]]:
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES), b""), 1):
            where = f"{file}:{number}"
            if len(line) == MAX_LINE_BYTES:
                raise DataError(f"{where}: has {MAX_LINE_BYTES} bytes or more; put one trajectory in a line.")
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                continue
            if number == 1 and line.lstrip().startswith(b"["):
                raise DataError(f"{where}: a JSON array; put one trajectory in a line, as `jq -c '.[]'` does.")
            try:
                record = UserTrajectory.model_validate_json(line)
            except ValidationError as error:
                raise DataError(_sentence(where, error)) from None
            yield where, _trajectory(where, record, env, written, above), record.fold is not None


def _read_parquet(file: Path, env: str, written: str, above: float) -> Iterator[tuple[str, Trajectory, bool]]:
    """Rows of the trajectory schema, or rows with the same columns as a JSON line."""
    with readable(file):
        table = pq.read_table(file)
        table.validate(full=True)
    if TRAJECTORY_SCHEMA.names[0] in table.schema.names:
        yield from _own_rows(file, table)
        return
    with readable(file):
        rows = table.to_pylist()
    for number, row in enumerate(rows):
        where = f"{file}: row {number}"
        try:
            record = UserTrajectory.model_validate(_without_nulls(row))
        except ValidationError as error:
            raise DataError(_sentence(where, error)) from None
        yield where, _trajectory(where, record, env, written, above), record.fold is not None


def _own_rows(file: Path, table: pa.Table) -> Iterator[tuple[str, Trajectory, bool]]:
    """Rows that a run wrote, or that say so: each is checked all the same."""
    check_schema(table.schema, str(file))
    check_filled(table, str(file))
    for number, trajectory in enumerate(from_batch(table)):
        where = f"{file}: row {number}"
        try:
            _OwnRow.model_validate(trajectory, from_attributes=True)
        except ValidationError as error:
            raise DataError(_sentence(where, error)) from None
        yield where, trajectory, True


def _without_nulls(value: Any) -> Any:
    """Parquet has no absent fields, only nulls."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(v) for v in value] if isinstance(value, list) else value


def _sentence(where: str, error: ValidationError) -> str:
    """The first fault as `file:line: steps[3].action: what is wrong`."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    path = path if path.isprintable() and len(path) <= 200 else repr(path)[:200]
    message = first["msg"].removeprefix("Input ").rstrip(".").replace("Extra inputs are not permitted", "unknown field")
    return f"{where}: {path}: {message}." if path else f"{where}: {message}."


def _trajectory(where: str, record: UserTrajectory, env: str, written: str, above: float) -> Trajectory:
    success = _success(where, record, above)
    source = record.source or ("expert" if success else "policy")
    steps = [_transition(where, record, index, success, source, written) for index in range(len(record.steps))]
    payload = record.task.payload
    if not isinstance(payload, str):
        payload = json.dumps(payload, sort_keys=True)
    first_state = record.steps[0].state
    if not first_state.strip():
        raise DataError(f"{where}: steps[0].state: empty; the first state tells what the task is played in.")
    task_id = record.task.id or stable_id(env, record.task.instruction, payload, first_state)
    task = Task(task_id, env, record.task.instruction, payload, first_state)
    return Trajectory(
        id="",
        task=task,
        source=source,
        world="real",
        steps=steps,
        fold=record.fold or "train",
        success=success,
        truncated=not steps[-1].done,
    )


def _success(where: str, record: UserTrajectory, above: float) -> bool:
    """As given, or whether the last step, unless it is said to be no end, was rewarded with more than that."""
    if record.success is not None:
        return record.success
    if all(step.reward is None for step in record.steps):
        raise DataError(f"{where}: success: neither it nor any step's reward is given; add one of the two.")
    last = record.steps[-1]
    return is_success(last.reward or 0.0, last.done is not False, above)


def _transition(where: str, record: UserTrajectory, index: int, success: bool, source: str, written: str) -> Transition:
    step, last = record.steps[index], index == len(record.steps) - 1
    done = step.done if step.done is not None else last and success
    if done and not last:
        raise DataError(f"{where}: steps[{index}].done: true before the last step; split the trajectory there.")
    following = FINAL_STATE if last else record.steps[index + 1].state
    if last and step.next_state is None and not done:
        raise DataError(
            f"{where}: steps[{index}].next_state: missing; the last step needs it unless it solves the task."
        )
    if not last and step.next_state not in (None, following):
        raise DataError(f"{where}: steps[{index}].next_state: is not the state of steps[{index + 1}]; make them equal.")
    said = Answer(step.action, step.thought, step.action)
    if written != "plain":
        said = FORMATS[written].parse(step.action)
    expert_action = said.action if source == "expert" else ""
    return Transition(
        state=step.state,
        action=said.action,
        next_state=following if step.next_state is None else step.next_state,
        reward=step.reward if step.reward is not None else float(last and success),
        done=done,
        reasoning=step.reasoning,
        expert_action=expert_action if step.expert_action is None else step.expert_action,
        thought=said.thought or step.thought,
        answer=said.text if said.text != said.action else "",
        malformed=said.malformed,
        same_turn=step.same_turn and index > 0,
    )
