"""BrowserGym's tasks as text environments: MiniWoB++ in Chromium, and any other that is registered with it."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from dreamgym.config.base import Url
from dreamgym.config.credentials import credential
from dreamgym.envs.base import payload_fields, pick
from dreamgym.envs.web.actions import ELEMENTS, SCHEMAS, SITES, NotACall, read_action, write_action
from dreamgym.envs.web.browser import Settings
from dreamgym.envs.web.client import BrowserClient
from dreamgym.envs.web.experts import expert, known_tasks
from dreamgym.envs.web.page import Element
from dreamgym.envs.web.webarena import KEY, WebArena, is_webarena, python_environment
from dreamgym.errors import EnvError
from dreamgym.models.answers.calls import CallError, read_call
from dreamgym.types import Fold, Task, Transition, is_success, stable_id

SEEDS: dict[Fold, range] = {"test": range(1_000), "dev": range(1_000, 2_000), "train": range(2_000, 1_000_000)}
"""The seeds of a task's pages that belong to a fold, where a task draws its page by a seed."""
_LINE = re.compile(r" *(\w+) (\S+) ?(.*)")


class BrowserGym:
    """BrowserGym as a `TextEnv`: a page is a text, a line an element, and an action is one call, `click('12')`.

    The browser runs in a process of its own. An end is a success at a reward of 1.0, for MiniWoB its *raw* reward:
    BrowserGym (0.14) itself counts any that is above zero, which some pages give for a wrong answer.

    Args:
        tasks: ids such as `miniwob.click-test`, or `webarenalite` for all of WebArena's by their folds; empty are those
            of MiniWoB that have an expert here.
        browser: the browser's executable; empty is Playwright's own, or else the system's Chromium.
        hosts: hosts, with `*` and perhaps a port, that pages may open beside their task's.
        settle: seconds, the longest that a page is waited for; it is as soon as it has nothing more to do.
        lines: of a state; of a longer page, what is out of sight goes first.
        sites: whether actions may leave a page (`goto`, tabs, answers to the user).
        deadline: seconds for a request to the browser.
        recycle: episodes after which the browser is started anew.
        python: the Python that runs the browser, where its packages are not beside these.
        judge: the LLM that judges some answers for WebArena, `{model: …, base_url: …}`; without `base_url` it is
            OpenAI's. Its key is in OPENAI_API_KEY.

    Raises:
        EnvError: an option is wrong.
    """

    success_above: ClassVar[float] = 0.999

    def __init__(
        self,
        tasks: Sequence[str] = (),
        browser: str = "",
        hosts: Sequence[str] = (),
        settle: float = 0.5,
        lines: int = 80,
        sites: bool | None = None,
        deadline: float = 120.0,
        recycle: int = 20,
        python: str = "",
        judge: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(tasks, str) or isinstance(hosts, str):
            raise EnvError("env.options: tasks and hosts are lists; write tasks=[miniwob.click-test].")
        self._tasks = tuple(tasks) or known_tasks()
        if wrong := [task for task in self._tasks if "." not in task and not is_webarena(task)]:
            raise EnvError(f"env.options.tasks: '{wrong[0]}' is no id of BrowserGym, such as miniwob.click-test.")
        away = any(not task.startswith("miniwob.") for task in self._tasks) if sites is None else sites
        self._actions = tuple(tool["name"] for tool in (*ELEMENTS, *(SITES if away else ())))
        python = python or sys.executable
        model, environment = _judge(judge, python_environment(python))
        self._arena = WebArena(self._tasks, bool(model), python) if any(map(is_webarena, self._tasks)) else None
        if self._arena is not None and not away:
            raise EnvError("env.options.sites: an agent answers WebArena by an action of sites; leave it out.")
        self._browser = BrowserClient(
            Settings(browser, tuple(hosts), self._actions, settle, lines, recycle, model), deadline, python, environment
        )
        self.remark = self._arena.remark if self._arena else ""
        self._task = ""
        self._goal = ""
        self._page: list[Element] = []
        self._taken: list[str] = []

    # TextEnv ------------------------------------------------------------------------------------

    def tasks(self, fold: Fold, count: int, seed: int) -> list[Task]:
        """As many of each id as may be, each with a page of its own; what is asked and shown is the browser's word."""
        if self._arena is not None:
            return self._arena.tasks(fold, count, seed)
        found = []
        for index in range(count):
            name = self._tasks[index % len(self._tasks)]
            page = _seed_of(name, fold, index // len(self._tasks), seed)
            payload = json.dumps({"task": name, "seed": page})
            answer = self._reset(name, page)
            found.append(Task(f"{name}-{page}", "browsergym", self._goal, payload, answer["state"]))
        return found

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        name, seed = payload_fields(task.payload, "task", "seed")
        return self._reset(name, seed)["state"], {"instruction": self._goal, "success": False}

    def _reset(self, name: str, seed: int) -> dict[str, Any]:
        places = self._arena.places(name) if self._arena else []
        answer = self._browser.ask("reset", task=name, seed=seed, places=places)
        goal = self._arena.goal(name) if self._arena else answer["goal"]
        self._task, self._goal, self._taken = name, goal, []
        open_ = "" if answer["sandboxed"] else "its browser runs without a sandbox, which root cannot have"
        self.remark = "; ".join(filter(None, (open_, self._arena.remark if self._arena else "")))
        self._read(answer)
        return answer

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        answer = self._browser.ask("step", action=action)
        self._taken.append(action)
        self._read(answer)
        info = {"success": answer["success"], "valid": not answer["error"]}
        return answer["state"], answer["reward"], answer["ended"], False, info

    def _read(self, answer: dict[str, Any]) -> None:
        self._page = [Element(**line | {"states": tuple(line["states"])}) for line in answer["elements"]]

    def close(self) -> None:
        """End the browser."""
        self._browser.close()

    # Seed data ----------------------------------------------------------------------------------

    def expert_action(self) -> str:
        """The next action of the rule for this task; empty where there is none, or where it does not know on."""
        return expert(self._task, self._goal, self._page, self._taken)

    def valid_actions(self) -> list[str]:
        """A click on each element of the page."""
        return [write_action("click", element.id) for element in self._page if element.id]

    def commands(self) -> list[str]:
        """Clicks, also on what is not here, words in fields, answers to WebArena, and actions that there are not."""
        there = [element.id for element in self._page if element.id]
        absent = [str(int(there[-1]) + 7) if there and there[-1].isdecimal() else "999", "0"]
        words = sorted(set(re.findall(r"\w+", self._goal)))[:3]
        fields = [element.id for element in self._page if element.role in ("textbox", "searchbox")]
        return [
            *self.valid_actions(),
            *(write_action("click", id_) for id_ in absent),
            *(write_action("fill", id_, word) for id_ in [*fields[:2], *there[:1]] for word in words),
            *((write_action("send_msg_to_user", word) for word in (*words, "done")) if self._arena else ()),
            "click()",
            "submit",
        ]

    @staticmethod
    def think(task: Task, history: Sequence[Transition], action: str) -> str:
        """The rule for a thought: what the element is that is acted on, in the page's own words."""
        state = history[-1].next_state if history else task.first_state
        name, id_, said = _parts(action)
        called = _called(state, id_)
        if not name or (id_ and not called):
            return f"{id_ or action} is not on the page"
        return _acted(name, called, said)

    @staticmethod
    def reason(task: Task, history: Sequence[Transition], transition: Transition) -> str:
        """The rule for R*: what is acted on and, at an end, what the page holds; each time whether it was asked for."""
        name, id_, said = _parts(transition.action)
        if not name:
            return "no such action"
        called = _called(transition.state, id_)
        if id_ and not called:
            return f"{id_} is not here"
        told = [_acted(name, called, said)]
        if words := said or called:
            told.append(_asked(task, words))
        if not transition.done:
            return f"{', '.join(told)}; {'same' if transition.next_state == transition.state else 'changes'}"
        told += [f"has {held}, {_asked(task, held)}" for held in _held(transition.state)]
        solved = is_success(transition.reward, transition.done, BrowserGym.success_above)
        return f"{', '.join(told)}; {'solved' if solved else 'wrong'}"

    @staticmethod
    def vary(task: Task, rng: random.Random) -> list[Any]:
        """A page asks for what is on it, so that its text alone cannot be varied."""
        return []


class BrowserGymTools(BrowserGym):
    """The same, with actions offered as tools: `{"name": "click", "arguments": {"bid": "12"}}`."""

    tools: ClassVar[list[dict[str, Any]]] = ELEMENTS

    def __init__(self, tasks: Sequence[str] = (), **options: Any) -> None:
        if any(map(is_webarena, tasks)):
            raise EnvError("env.name: browsergym-tools has no answer to the user; play WebArena with browsergym.")
        super().__init__(tasks, **options)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        try:
            call = read_call(action)
        except CallError:
            return super().step(action)  # which says what an action is
        return super().step(write_action(call.name, **call.arguments))

    def expert_action(self) -> str:
        """As a call of a tool."""
        action = super().expert_action()
        return as_tool(action) if action else ""

    def valid_actions(self) -> list[str]:
        """As calls of tools."""
        return [as_tool(action) for action in super().valid_actions()]

    def commands(self) -> list[str]:
        """As calls of tools."""
        calls = [as_tool(action) for action in super().commands() if action.startswith(("click('", "fill("))]
        return [*calls, as_tool("noop(100)")]


def as_tool(action: str) -> str:
    """An action that is written as a call, as JSON."""
    name, arguments = _by_name(action)
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def _by_name(action: str) -> tuple[str, dict[str, Any]]:
    """The name of an action that is written as a call, and its arguments by their names; raises NotACall."""
    name, positional, named = read_action(action, tuple(SCHEMAS))
    return name, dict(zip(SCHEMAS[name]["properties"], positional, strict=False)) | named


def _acted(name: str, called: str, said: str) -> str:
    """What is done, in words: `fill username: ann`, `click Login`, `send_msg_to_user: done`."""
    done = f"{name} {called}".rstrip()
    return f"{done}: {said}" if said else done


def _called(state: str, id_: str) -> str:
    """What the element of an id is called on a page, or else its role; empty where there is none."""
    found = next((m for line in state.splitlines() if (m := _LINE.fullmatch(line)) and m[1] == id_), None)
    return (re.sub(r"(^| )(=|\().*", "", found[3]) or found[2]) if found else ""


def _asked(task: Task, words: str) -> str:
    return "asked" if words in task.instruction else "not asked"


def _held(state: str) -> list[str]:
    """What the fields of a page hold, and what is ticked or chosen."""
    lines = [m for line in state.splitlines() if (m := _LINE.fullmatch(line))]
    ticked = [re.sub(r" \(.*", "", m[3]) for m in lines if re.search(r"\((checked|selected)\)", m[3])]
    values = [value[1] for m in lines if (value := re.search(r"= (.*?)(?: \(\w+\))*$", m[3]))]
    return list(dict.fromkeys([*values, *ticked]))


def _parts(action: str) -> tuple[str, str, str]:
    """Name, element and words of an action, as text or as a tool; empty where it has none."""
    try:
        name, arguments = read_call(action)
    except CallError:
        try:
            name, arguments = _by_name(action)
        except NotACall:
            return "", "", ""
    on_element = bool(SCHEMAS.get(name, {}).get("properties", {}).keys() & {"bid", "from_bid"})
    values = list(map(str, arguments.values()))
    element, said, *_ = [*([] if on_element else [""]), *values, "", ""]
    return name, element, said


def _judge(judge: Mapping[str, str] | None, environment: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The judge's name, and the environment of a process that can ask it; the key is nowhere else."""
    if not judge:
        return "", environment
    if not isinstance(judge, Mapping) or not judge.get("model") or set(judge) - {"model", "base_url"}:
        raise EnvError(
            "env.options.judge: write {model: NAME, base_url: http://127.0.0.1:8000/v1}, or the model alone."
        )
    address, key = judge.get("base_url", ""), credential(KEY)
    try:
        TypeAdapter(Url).validate_python(address)
    except ValidationError as error:
        raise EnvError(f"env.options.judge.base_url: {error.errors()[0]['msg'].lower()}.") from None
    if not key and not address:
        raise EnvError(f"env.options.judge: set {KEY}, or name the base_url of an endpoint that needs no key.")
    asked = {"OPENAI_BASE_URL": address} if address else {}
    return judge["model"], environment | asked | {KEY: key or "none"}


def _seed_of(name: str, fold: Fold, index: int, seed: int) -> int:
    """The `index`-th seed of a task in a fold, all different."""
    seeds = SEEDS[fold]
    rng = random.Random(stable_id(seed, fold, name))
    step = pick(rng, [prime for prime in (7, 11, 13, 17, 19, 23) if len(seeds) % prime])
    return seeds[(rng.randrange(len(seeds)) + step * index) % len(seeds)]
