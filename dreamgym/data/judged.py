"""Steps of a dream that a person judged, one a line of JSON: to measure a dream on, and to tune it on.

A line stands for itself: it has the task, all that was done before, what the dream said, and what is right where that
is known. A step that was judged twice counts as it was judged last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from dreamgym.errors import DataError
from dreamgym.types import Fold, Task, Trajectory, Transition

FILE = "judged.jsonl"
"""Its name in the run folder."""
Verdict = Literal["right", "wrong", "unreadable"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class JudgedStep:
    """A step of a dream and what a person says of it.

    id        the same for the same question (model, task, draw and actions) with the same answer
    model     the experience model that dreamed it, as RUN/FOLDER
    fold      of the task: what a dream learns from is of the train fold alone
    history   the steps before, as they were dreamed
    said      what the dream answered; with `error` there is no answer, and its `next_state` is empty
    judged    what the person says of it
    truth     the step as it is right: `said` where that is right, else as `truth_by` has told it; None where unknown
    truth_by  who told the truth where the dream did not: the person, or the real environment
    """

    id: str
    model: str
    task: Task
    fold: Fold
    history: tuple[Transition, ...]
    said: Transition
    judged: Verdict
    error: str = ""
    truth: Transition | None = None
    truth_by: Literal["", "person", "real"] = ""


_LINE = TypeAdapter(JudgedStep)


def append(path: Path, step: JudgedStep) -> None:
    """Add a line; one that was cut off before it ended is ended first."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            cut = file.read(1) != b"\n"
        else:
            cut = False
        file.write((b"\n" if cut else b"") + _LINE.dump_json(step) + b"\n")


def read(path: Path) -> list[JudgedStep]:
    """The judged steps of a file, each as it was judged last, in the order in which they were first.

    Raises:
        DataError: the file is missing, or a line is no judged step.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; judge steps of a dream with `dreamgym play` first.")
    found: dict[str, JudgedStep] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                step = _LINE.validate_json(line)
            except ValidationError as error:
                first = error.errors(include_url=False, include_context=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise DataError(
                    f"{path}:{number}: {f'{where}: ' if where else ''}{first['msg']}; mend or remove it."
                ) from None
            found[step.id] = step
    return list(found.values())


def measurable(steps: Iterable[JudgedStep]) -> list[Trajectory]:
    """An episode for each step whose truth is known: what came before it, and the step as it is right."""
    return [
        Trajectory(step.id, step.task, "policy", "dream", [*step.history, step.truth], fold=step.fold)
        for step in steps
        if step.truth is not None
    ]


def taught(steps: Sequence[JudgedStep], explained: bool) -> list[Trajectory]:
    """What a dream can learn from judged steps of the train fold: episodes in which every step is right.

    Right steps that followed one another are one episode, which begins in the state of the first of them. Each step is
    in one of them. With `explained`, a step without reasoning is left out: the model would learn to give none.
    """
    right = [s for s in steps if s.truth is not None and s.fold == "train" and (s.truth.reasoning or not explained)]
    ends: dict[tuple[str, tuple[Transition, ...]], Trajectory] = {}
    for step in sorted(right, key=lambda s: len(s.history)):
        assert step.truth is not None
        episode = ends.pop((step.task.id, step.history), None)
        if episode is None:
            episode = Trajectory(step.id, step.task, "policy", "dream", fold=step.fold)
        episode.steps.append(step.truth)
        # What came after a step that was put right came after what the dream had said: it meets no end of this key.
        ends[step.task.id, (*step.history, step.truth)] = episode
    return list(ends.values())
