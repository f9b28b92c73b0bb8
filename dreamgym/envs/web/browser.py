"""The process of one browser: BrowserGym's environment, asked over a pipe, a request and an answer a line."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import logging
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from dreamgym.envs.web.actions import NotACall, read_action, write_action
from dreamgym.envs.web.hosts import NOWHERE, UNREACHABLE, is_page, may_open, site_of
from dreamgym.envs.web.judging import answer_of, begun, worth
from dreamgym.envs.web.page import page_text, read_marks, read_page
from dreamgym.envs.web.still import STILL

log = logging.getLogger(__name__)
LONGEST_SENTENCE = 200
ACTION_TIMEOUT_MS = 2_000
"""How long an element may take to be ready for an action. BrowserGym's own 500 ms are over on a busy machine."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a browser is started with.

    browser   the executable; empty is Playwright's own, or else the system's Chromium
    hosts     names of hosts, with `*`, perhaps with a port, that may be opened beside those that a task names
    actions   names of the actions that an agent may use
    settle_s  seconds, the longest that a page is waited for after an action; it is as soon as it is still
    most      lines of a state
    recycle   episodes after which the browser is started anew
    judge     name of the LLM that judges answers for WebArena; empty where there is none
    """

    browser: str = ""
    hosts: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    settle_s: float = 0.5
    most: int = 80
    recycle: int = 20
    judge: str = ""


class Messages:
    """What BrowserGym's second browser, a chat window, is used for: it holds the messages. (Its own takes 300 MB.)"""

    def __init__(self, *_: object, **__: object) -> None:
        self.messages: list[dict[str, Any]] = []

    def add_message(self, role: str, msg: str) -> None:
        self.messages.append({"role": role, "timestamp": 0.0, "message": msg})

    def wait_for_user_message(self) -> None:
        """Nobody is there."""

    def close(self) -> None:
        """There is no window."""


class KeptBrowser:
    """Stands in for Playwright towards BrowserGym, and keeps one browser over episodes; each gets an empty profile."""

    def __init__(self, playwright: Any, settings: Settings) -> None:
        self.selectors = playwright.selectors
        self.chromium = self
        self.allowed: tuple[str, ...] = ()
        self.files = ""
        self.sandboxed = True
        self.notices: list[str] = []
        self.lost: list[str] = []
        self.refused: list[str] = []
        self._playwright = playwright
        self._settings = settings
        self._browser: Any = None
        self._contexts = 0

    def launch(self, **options: Any) -> KeptBrowser:
        """The browser that runs, or a new one; without the wait that BrowserGym adds to each operation."""
        if self._browser is not None and (self._contexts >= self._settings.recycle or not self._browser.is_connected()):
            self._browser.close()
            self._browser = None
        if self._browser is None:
            self._contexts = 0
            options |= {"slow_mo": 0, "executable_path": executable(self._settings.browser, self._playwright)}
            self._browser = self._start(options)
        return self

    def _start(self, options: dict[str, Any]) -> Any:
        from playwright.sync_api import Error

        try:
            return self._playwright.chromium.launch(chromium_sandbox=True, **options)
        except Error:  # root, or a kernel without user namespaces; where it is something else, it is raised now
            self.sandboxed = False
            return self._playwright.chromium.launch(chromium_sandbox=False, **options)

    def new_context(self, **options: Any) -> Any:
        """A profile of its own: nothing is kept, nothing downloaded, and only the task's hosts are reached."""
        self._contexts += 1
        self.notices, self.lost, self.refused = [], [], []
        reached = ",".join(("<-loopback>", *self.allowed))
        options["proxy"] = {"server": NOWHERE, "bypass": reached}  # a redirect passes by a route, but not by this
        context = self._browser.new_context(accept_downloads=False, service_workers="block", **options)
        context.add_init_script(STILL)
        context.route("**/*", self._guard)
        context.on("dialog", self._dialog)
        context.on("page", lambda page: page.on("download", self._download))
        context.on("requestfailed", self._failed)
        context.on("response", self._response)
        return context

    def close(self) -> None:
        """The next episode goes on with it."""

    def _guard(self, route: Any) -> None:
        if may_open(route.request.url, self.allowed, self.files):
            route.continue_()
            return
        self._blocked(route.request.url)
        route.abort("blockedbyclient")

    def _blocked(self, url: str) -> None:
        self._tell(f"blocked: {urlsplit(url).hostname or 'a file'} is not a host of this task")

    def _failed(self, request: Any) -> None:
        """A page of the task's own hosts that cannot be reached ends the episode; it is not the agent's doing."""
        if not may_open(request.url, self.allowed, self.files):
            self._blocked(request.url)
        elif is_page(request) and UNREACHABLE.match(request.failure or ""):
            self.lost.append(f"{site_of(request.url)} cannot be reached ({request.failure})")

    def _response(self, response: Any) -> None:
        if response.status >= 500 and is_page(response.request):
            self.refused.append(f"{site_of(response.url)} answers with {response.status}")

    def _dialog(self, dialog: Any) -> None:
        self._tell(f"{dialog.type}: {dialog.message}")
        dialog.accept() if dialog.type in ("alert", "beforeunload") else dialog.dismiss()

    def _download(self, download: Any) -> None:
        self._tell(f"refused the download of {download.suggested_filename}")

    def _tell(self, notice: str) -> None:
        notice = _sentence(notice)
        if notice not in self.notices:
            self.notices.append(notice)


def executable(asked: str, playwright: Any) -> str:
    """The browser to start.

    Raises:
        FileNotFoundError: there is none.
    """
    own = playwright.chromium.executable_path
    found = asked or (own if Path(own).exists() else system_browser())
    if not found or not Path(found).exists():
        raise FileNotFoundError(
            f"no browser at '{found}'; `playwright install chromium`, or name one in env.options.browser"
        )
    return str(found)


def system_browser() -> str:
    """Chromium or Chrome as a package of the system; empty where there is none.

    First the one without a window: of the others each profile starts the parts of a whole window, for nobody to see.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), "")


class Player:
    """Plays episodes, one after the other."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept, self._actions = _prepare(settings)
        self._env: Any = None
        self._answered = False

    def reset(self, task: str, seed: int, places: Sequence[str] = ()) -> dict[str, Any]:
        """Begin an episode; the answer is `answer`'s, with the task's `goal`.

        `places` are the hosts of a task of WebArena; others are known by their kind.

        Raises:
            RuntimeError: one of the task's sites does not answer.
        """
        import gymnasium

        if self._env is not None:
            self._env.close()
        family = task.partition(".")[0]
        self._answered = bool(places)
        self._kept.files, self._kept.allowed = _places(family, self._settings.hosts)
        if places:
            self._kept.allowed = (*places, *self._settings.hosts)
        _register(family)
        self._env = gymnasium.make(f"browsergym/{task}", action_mapping=self._code, pre_observation_delay=0.0).unwrapped
        observation, _ = self._env.reset(seed=seed)
        if self._answered:
            begun(self._env.task)
            self._must_answer(self._kept.refused)
        return self._answer(observation) | {"goal": observation["goal"], "sandboxed": self._kept.sandboxed}

    def _code(self, action: str) -> str:
        """The Python that BrowserGym (0.14) runs for an action: its own functions, in which the timeout is written."""
        return str(self._actions.to_python_code(action)).replace("timeout=500", f"timeout={ACTION_TIMEOUT_MS}")

    def step(self, action: str) -> dict[str, Any]:
        """Act; an action that is no call is told so, and nothing is done.

        Raises:
            RuntimeError: one of the task's sites does not answer, or what the agent says cannot be judged.
        """
        self._kept.notices = []
        try:
            name, positional, named = read_action(action, self._settings.actions)
        except NotACall as error:
            return self._answer(self._env._get_obs(), str(error)) | {"reward": 0.0, "ended": False, "success": False}
        observation, reward, ended, _, info = self._env.step(write_action(name, *positional, **named))
        self._must_answer()
        if self._answered:
            reward, ended = self._judged()
        told = info["task_info"]
        reward = float(told.get("RAW_REWARD_GLOBAL", reward)) if ended else 0.0
        answer = self._answer(observation, observation["last_action_error"])
        return answer | {"reward": max(0.0, min(1.0, reward)), "ended": bool(ended), "success": ended and reward >= 1.0}

    def _judged(self) -> tuple[float, bool]:
        """Reward and end of an episode that ends with the agent's answer."""
        said = answer_of(self._env.chat.messages)
        if said is None:
            return 0.0, False
        self._kept.refused = []
        reward = worth(self._env.task, self._env.page, said, self._settings.judge)
        self._must_answer(self._kept.refused)
        return reward, True

    def _must_answer(self, refused: Sequence[str] = ()) -> None:
        if told := [*self._kept.lost, *refused]:
            raise RuntimeError(told[0])

    def _answer(self, observation: Mapping[str, Any], error: str = "") -> dict[str, Any]:
        """`state` is what the agent reads, `elements` the lines it was made of, `error` what was wrong."""
        marks = read_marks(observation["extra_element_properties"], observation["dom_object"])
        elements = read_page(observation["axtree_object"], marks)
        error = _sentence(error)
        lines = [f"error: {error}"] if error else []
        lines += self._kept.notices
        titles = observation["open_pages_titles"]
        if len(titles) > 1:
            here = int(observation["active_page_index"][0])
            lines += [f"tab {i}{' (here)' if i == here else ''}: {_sentence(t)}" for i, t in enumerate(titles)]
        url = urlsplit(observation["url"])
        if url.scheme in ("http", "https"):
            lines.append(f"at {url.path or '/'}{'?' + url.query if url.query else ''}"[:LONGEST_SENTENCE])
        lines.append(page_text(elements, self._settings.most))
        return {"state": "\n".join(lines), "elements": [asdict(e) for e in elements], "error": error}


def _register(family: str) -> None:
    """Import the tasks of a family; WebArena's needs a tokenizer's data, which it downloads."""
    try:
        importlib.import_module(f"browsergym.{family}")
    except ValueError as error:
        raise FileNotFoundError(
            f"browsergym.{family} cannot be imported ({_sentence(str(error))}); where it cannot download the data of "
            f"NLTK, run `{sys.executable} -m nltk.downloader punkt_tab` where it can, and set NLTK_DATA to that folder"
        ) from error


def _prepare(settings: Settings) -> tuple[KeptBrowser, Any]:
    """The one browser that BrowserGym is to keep, without a chat window and pictures; and its action set."""
    import browsergym.core.env as core
    import browsergym.core.registration as registration
    import playwright.sync_api
    from browsergym.core.action import functions
    from browsergym.core.action.highlevel import HighLevelActionSet

    inspect.stack = _stack  # Playwright (1.44) notes it at each of its calls, which takes a third of a step
    kept = KeptBrowser(playwright.sync_api.sync_playwright().start(), settings)

    class Browser(core.BrowserEnv):
        def post_step(self, info: dict[str, Any], validate: bool = True) -> Any:
            _wait_until_still(self.page, settings.settle_s)
            return super().post_step(info, validate)

        def _task_validate(self) -> Any:
            """A link within the page (`#`) is no other page; BrowserGym ends such an episode of MiniWoB with 0."""
            if getattr(self.task, "episode_max_time", None) and _page_of(self.page.url) == _page_of(self.task.url):
                self.task.url = self.page.url
            return super()._task_validate()

    core._get_global_playwright = lambda: kept
    core.Chat = Messages
    core.extract_screenshot = lambda page: None
    registration.BrowserEnv = Browser
    chosen = [getattr(functions, name) for name in settings.actions if name != "noop"]
    return kept, HighLevelActionSet(subsets=["custom"], custom_actions=chosen, multiaction=False, demo_mode="off")


def _stack(context: int = 0) -> list[inspect.FrameInfo]:
    """The frames of the caller, as `inspect.stack` gives them, without looking for their source."""
    frames: list[inspect.FrameInfo] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(
            inspect.FrameInfo(frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None, None)
        )
        frame = frame.f_back
    return frames


def _page_of(url: str) -> str:
    return url.partition("#")[0]


def _wait_until_still(page: Any, most_s: float) -> None:
    """Until the page has nothing more to do that it has begun, such as a menu that opens late; at most `most_s`."""
    from playwright.sync_api import Error

    try:
        page.evaluate("limit => window.__dreamgymStill ? window.__dreamgymStill(limit) : 0", 1000 * most_s)
    except Error:
        return  # it went to another page, or was closed; what comes next waits for that one


def _places(family: str, hosts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The folder and the hosts that tasks of a family may open: where the environment says that its sites are."""
    if family != "miniwob":
        own = [urlsplit(v).hostname for k, v in os.environ.items() if re.fullmatch(r"(WA|VWA)_\w+", k)]
        return "", (*(host for host in own if host), *hosts)
    if "MINIWOB_URL" not in os.environ:
        found = importlib.util.find_spec("miniwob")
        if found is None or found.origin is None:
            raise FileNotFoundError("the pages of MiniWoB++ are missing; install the extra `web`, or set MINIWOB_URL")
        os.environ["MINIWOB_URL"] = (Path(found.origin).parent / "html" / "miniwob").as_uri() + "/"
    url = urlsplit(os.environ["MINIWOB_URL"])
    if url.scheme == "file":
        return str(Path(url.path).parent), tuple(hosts)
    return "", (url.hostname or "", *hosts)


def _sentence(text: str) -> str:
    """The first line of what a page or a library says, without blanks in a row, bounded."""
    lines = text.strip().splitlines()
    return re.sub(r"\s+", " ", lines[0])[:LONGEST_SENTENCE] if lines else ""


def main() -> None:
    """Answer requests until standard input ends; a fault is an answer too, and the process goes on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    given = json.loads(sys.argv[1])
    settings = Settings(**given | {"hosts": tuple(given["hosts"]), "actions": tuple(given["actions"])})
    player: Player | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            player = player or Player(settings)
            answer = getattr(player, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked has to hear of it
            traceback.print_exc()
            answer = {"fault": f"{type(error).__name__}: {_sentence(str(error))}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
