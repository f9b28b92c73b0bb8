"""WebArena-Lite: its tasks and folds, its sites' addresses, and what is needed to judge an answer."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dreamgym.envs.web.hosts import site_of
from dreamgym.errors import EnvError
from dreamgym.types import Fold, Task, stable_id

log = logging.getLogger(__name__)
LITE = "webarenalite"
FAMILIES = (LITE, "webarena")
SITES = ("SHOPPING", "SHOPPING_ADMIN", "REDDIT", "GITLAB", "WIKIPEDIA", "MAP", "HOMEPAGE")
KEY = "OPENAI_API_KEY"
PACKAGES = "browsergym-webarenalite==0.14.3"
DEV_SHARE = 10
"""One of so many intent templates of what is not WebArena-Lite's is dev."""


@dataclass(frozen=True, slots=True)
class ArenaTask:
    """A task as BrowserGym registers it, such as `webarenalite.4`.

    `sites` are WebArena's names (`shopping`, …); `judged` says that its evaluator asks an LLM.
    """

    id: str
    fold: Fold
    intent: str
    template: int
    sites: tuple[str, ...]
    judged: bool


def is_webarena(task: str) -> bool:
    """Whether an id is one of WebArena's tasks; `webarenalite` alone stands for all of them."""
    return task.partition(".")[0] in FAMILIES


def read_tasks() -> list[ArenaTask]:
    """All tasks of the packages that are installed here, by fold; neither a browser nor an address is needed.

    WebArena-Lite's own 165 are test. WebArena's other 647 are train and dev, apart by intent template.

    Raises:
        EnvError: a package is missing.
    """
    lite = _read("browsergym.webarenalite", "test_webarena_lite.raw.json")
    taken = {row["old_task_id"] for row in lite}
    rest = [row for row in _read("webarena", "test.raw.json") if row["task_id"] not in taken]
    found = [_task(f"{LITE}.{row['old_task_id']}", "test", row) for row in lite]
    return found + [_task(f"webarena.{row['task_id']}", _fold(row["intent_template_id"]), row) for row in rest]


def _read(package: str, name: str) -> list[dict[str, Any]]:
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    for folder in found.submodule_search_locations or () if found else ():
        if (file := Path(folder) / name).is_file():
            rows: list[dict[str, Any]] = json.loads(file.read_text())
            return rows
    raise EnvError(
        f"env.options.python: {sys.executable} has no tasks of WebArena; install {PACKAGES} into a Python of its own "
        "and name that here."
    )


def _fold(template: int) -> Fold:
    return "dev" if int(stable_id("fold", "webarena", template), 16) % DEV_SHARE == 0 else "train"


def _task(id_: str, fold: Fold, row: Mapping[str, Any]) -> ArenaTask:
    told = row["eval"]
    answers = told["reference_answers"] or {} if "string_match" in told["eval_types"] else {}
    contents = [target["required_contents"] for target in told["program_html"] or ()]
    judged = any("fuzzy_match" in asked for asked in (answers, *contents))
    return ArenaTask(id_, fold, row["intent"], row["intent_template_id"], tuple(row["sites"]), judged)


@lru_cache(maxsize=4)
def tasks_of(python: str) -> dict[str, ArenaTask]:
    """The same by id, as another Python has them.

    Raises:
        EnvError: it cannot be run, or lacks a package.
    """
    command = [python, "-m", "dreamgym.envs.web.webarena"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=120, env=python_environment(python))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvError(f"env.options.python: {python} cannot be run ({type(error).__name__}).") from error
    try:
        answer = json.loads(told.stdout)
    except ValueError as error:
        said = (told.stderr.strip().splitlines() or ["nothing"])[-1][:200]
        raise EnvError(f"env.options.python: {python} cannot list WebArena's tasks; it said: {said}.") from error
    if "fault" in answer:
        raise EnvError(answer["fault"])
    return {row["id"]: ArenaTask(**row | {"sites": tuple(row["sites"])}) for row in answer["tasks"]}


def python_environment(python: str) -> dict[str, str]:
    """The environment in which a Python finds this package, also where it is installed into this one alone."""
    if python == sys.executable:
        return dict(os.environ)
    here = str(Path(__file__).resolve().parents[3])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH", ""))))}


def addresses() -> dict[str, str]:
    """Where the sites are, by WebArena's names, as the environment variables say.

    Raises:
        EnvError: a variable is missing or no address.
    """
    names = {f"WA_{site}": site.lower() for site in SITES}
    if missing := [name for name in names if not os.environ.get(name)]:
        raise EnvError(
            f"env.options.tasks: WebArena's sites are found by environment variables, and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set; set each to an address, such as http://localhost:7770."
        )
    for name in names:
        if not _is_address(os.environ[name]):
            raise EnvError(f"{name}: '{os.environ[name]}' is no address of a site, such as http://localhost:7770.")
    return {site: os.environ[name].rstrip("/") for name, site in names.items()}


def _is_address(url: str) -> bool:
    """Whether it names a host, and a port that can be one if any."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which raises where it is none
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class WebArena:
    """The tasks that were asked for, and where they are played.

    Args:
        names: ids, or `webarenalite` for the whole of each fold.
        judge: whether there is an LLM that judges answers.
        python: the Python that has WebArena's packages.

    Raises:
        EnvError: an address is missing, or a task is not there, or cannot be judged.
    """

    def __init__(self, names: Sequence[str], judge: bool, python: str) -> None:
        self._sites = addresses()
        self._known = tasks_of(python)
        self._judge = judge
        self._named = [name for name in names if name != LITE]
        self._all = LITE in names
        for name in self._named:
            self._check(name)

    def _check(self, name: str) -> None:
        if not is_webarena(name):
            raise EnvError(f"env.options.tasks: '{name}' is not WebArena's; give it an environment of its own.")
        number = name.partition(".")[2]
        if f"{LITE}.{number}" in self._known and name not in self._known:
            raise EnvError(
                f"env.options.tasks: '{name}' is WebArena-Lite's, which is the test fold; write {LITE}.{number}."
            )
        if name not in self._known:
            what = "one of WebArena-Lite's 165 tasks" if name.startswith(f"{LITE}.") else "a task of WebArena"
            raise EnvError(f"env.options.tasks: '{name}' is not {what}.")
        if self._known[name].judged and not self._judge:
            raise EnvError(
                f"env.options.judge: the answer to '{name}' is judged by an LLM; name its model and base_url."
            )

    @property
    def remark(self) -> str:
        """How many tasks are left out for want of a judge; empty where none is."""
        if self._judge or not self._all:
            return ""
        counts = [f"{self._without(fold)} of {len(self._fold(fold))} {fold}" for fold in ("test", "dev", "train")]
        return f"without env.options.judge, tasks that an LLM judges are left out: {', '.join(counts)}"

    def _fold(self, fold: Fold) -> list[ArenaTask]:
        return [task for task in self._known.values() if task.fold == fold]

    def _without(self, fold: Fold) -> int:
        return sum(task.judged for task in self._fold(fold))

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        """Each task of the fold at most once, in an order by `seed`: they are fixed, and draw nothing.

        Raises:
            EnvError: tasks were named, and none is of this fold.
        """
        named = [self._known[name] for name in dict.fromkeys(self._named)]
        found = [task for task in named if task.fold == fold]
        if self._all:
            there = [task for task in self._fold(fold) if self._judge or not task.judged]
            found += [task for task in there if task not in found]
            if not self._judge:
                log.warning("%s", self.remark)
        if not found:
            raise EnvError(
                f"env.options.tasks: none of {', '.join(self._named[:5])} is of the {fold} fold; {LITE}.N are test, "
                "webarena.N are train or dev."
            )
        random.Random(stable_id(seed, fold)).shuffle(found)
        return [
            Task(task.id, "browsergym", self.goal(task.id), json.dumps({"task": task.id, "seed": 0}))
            for task in found[:count]
        ]

    def goal(self, name: str) -> str:
        """What is asked. Where a task has several sites, their addresses are told: its pages do not name them."""
        task = self._known[name]
        if len(task.sites) == 1:
            return task.intent
        return f"{task.intent} (sites: {', '.join(f'{site} at {self._sites[site]}' for site in task.sites)})"

    def places(self, name: str) -> list[str]:
        """The hosts, with ports, of a task's sites.

        Raises:
            EnvError: there is no such task, or its answer cannot be judged.
        """
        self._check(name)
        return [site_of(self._sites[site]) for site in self._known[name].sites]


def main() -> None:
    """Print the tasks as JSON, for a Python that does not have the packages."""
    try:
        answer: dict[str, Any] = {"tasks": [asdict(task) for task in read_tasks()]}
    except EnvError as error:
        answer = {"fault": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
