"""What a rollout actor can rely on when a user's environment is slow, broken or not there at all."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dreamgym.config import EnvConfig
from dreamgym.envs.base import REGISTRY, RealEnvironment, env_class, make_env
from dreamgym.errors import EnvError
from dreamgym.types import Task
from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
TASK = Task("t", "fragile", "do it")


class Fragile:
    """An environment that does what the action says: hang, crash, exit, or break the contract."""

    built: ClassVar[int] = 0
    closed: ClassVar[int] = 0
    limit: ClassVar[int] = 10**9
    hung: ClassVar[threading.Event] = threading.Event()
    """What hangs goes on once this is set."""
    ended: ClassVar[queue.SimpleQueue[int]] = queue.SimpleQueue()
    """The numbers of those that were closed."""

    def __init__(self, hangs: bool = False, listing: int = 1) -> None:
        if type(self).built == type(self).limit:
            raise OSError("no memory for a game server")
        type(self).built += 1
        self._number = type(self).built
        self._hangs, self._listing = hangs, listing

    def tasks(self, fold: str, count: int, seed: int) -> list[Task]:
        if self._listing < 0:
            raise OSError("the disk is gone")
        return [TASK] * self._listing

    def reset(self, task: Task) -> tuple[str, dict[str, Any]]:
        if self._number == 1 and self._hangs:
            self.hung.wait()
        return f"environment {self._number}", {}

    def step(self, action: str) -> Any:
        if action == "hang":
            self.hung.wait()
        if action == "crash":
            raise RuntimeError("the game server died")
        if action == "exit":
            sys.exit(3)
        odd = {
            "half": ("s", 0.5, True, False, {}),
            "four": ("s", 0.0, False, {}),
            "number": (7, 0.0, False, False, {}),
            "nan": ("s", float("nan"), 0, 0, {}),
        }
        return odd.get(action, (f"did {action}", 1, action == "win", False, {"success": action == "win"}))

    def close(self) -> None:
        type(self).closed += 1
        self.ended.put(self._number)


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    Fragile.built = Fragile.closed = 0
    Fragile.hung.clear()
    Fragile.ended = queue.SimpleQueue()


def config(**fields: Any) -> EnvConfig:
    return EnvConfig(**{"name": f"{__name__}:Fragile", "timeout_s": HANG_S, **fields})


def play(env_config: EnvConfig, *actions: str) -> list[Any]:
    """The answers to a reset, the actions, and one more reset."""

    async def run() -> list[Any]:
        environment = RealEnvironment(env_config)
        answers = [await environment.reset(TASK)]
        answers += [await environment.step(action) for action in actions]
        answers.append(await environment.reset(TASK))
        await environment.close()
        return answers

    return asyncio.run(run())


def test_steps_reach_the_environment_and_it_is_closed() -> None:
    first, step, won, again = play(config(), "look", "win")
    assert (first.observation, step.observation, step.reward, step.done) == ("environment 1", "did look", 1.0, False)
    assert won.terminated
    assert won.info["success"]
    assert again.observation == "environment 1"
    assert (Fragile.built, Fragile.closed) == (1, 1)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("crash", "RuntimeError: the game server died"),
        ("exit", "SystemExit: 3"),
        ("four", "ValueError: not enough values to unpack"),
        ("number", "a state must be text, not int"),
        ("nan", "the reward is nan"),
    ],
)
def test_a_fault_is_env_failed_and_the_next_reset_gets_a_fresh_environment(action: str, words: str) -> None:
    _, failed, again = play(config(), action)
    assert failed.status == "env_failed"
    assert words in failed.info["error"]
    assert (again.status, again.observation) == ("ok", "environment 2")


def test_one_that_cannot_be_built_again_is_env_failed_and_one_that_never_was_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fragile, "limit", 1)
    _, failed, again = play(config(), "crash")
    assert (failed.status, again.status) == ("env_failed", "env_failed")
    assert "no memory for a game server" in again.info["error"]
    monkeypatch.setattr(Fragile, "limit", 1)
    with pytest.raises(EnvError, match="cannot be built with none: no memory"):
        play(config())


def test_a_missed_deadline_is_env_failed_and_the_late_environment_is_closed_in_the_end() -> None:
    """The call is not waited for beyond its deadline: what it waits for comes after all else."""
    settings = config()

    async def run() -> list[Any]:
        environment = RealEnvironment(settings)
        await environment.reset(TASK)
        settings.timeout_s = 0.2
        answers = [await environment.step("hang")]
        settings.timeout_s = HANG_S
        answers.append(await environment.reset(TASK))
        await environment.close()
        return answers

    failed, again = asyncio.run(run())
    assert failed.status == "env_failed"
    assert failed.info["error"] == "no answer within 0.2 s"
    assert again.observation == "environment 2"
    Fragile.hung.set()
    assert [Fragile.ended.get(timeout=HANG_S) for _ in range(2)] == [2, 1]
    assert Fragile.closed == 2


def test_an_environment_that_is_late_in_reset_is_never_played_afterwards() -> None:
    settings = config(options={"hangs": True})

    async def run() -> list[Any]:
        environment = RealEnvironment(settings)
        await environment.tasks("dev", 1, 0)  # it is built before the deadline begins
        settings.timeout_s = 0.2
        answers = [await environment.reset(TASK)]
        settings.timeout_s = HANG_S
        Fragile.hung.set()
        assert await asyncio.to_thread(Fragile.ended.get, timeout=HANG_S) == 1, "the late reset is over"
        answers.append(await environment.reset(TASK))
        await environment.close()
        return answers

    late, again = asyncio.run(run())
    assert late.status == "env_failed"
    assert again.observation == "environment 2"


def test_episodes_are_truncated_at_max_steps_but_a_win_on_the_last_step_counts() -> None:
    *_, last, _ = play(config(max_steps=2), "a", "b")
    assert (last.terminated, last.truncated) == (False, True)
    *_, last, _ = play(config(max_steps=2), "a", "win")
    assert (last.terminated, last.truncated) == (True, False)


@pytest.mark.parametrize(("above", "success"), [(0.0, True), (0.5, False)])
def test_a_rewarded_end_is_a_success_above_what_the_setting_says(above: float, success: bool) -> None:
    _, end, _ = play(config(success_above=above), "half")
    assert (end.terminated, end.reward, end.success) == (True, 0.5, success)
    _, won, _ = play(config(success_above=9.0), "win")
    assert won.success, "the environment says so itself"


@pytest.mark.parametrize("before", [(), ("crash",)])
def test_a_step_without_a_task_says_so(before: tuple[str, ...]) -> None:
    async def run() -> None:
        environment = RealEnvironment(config())
        if before:
            await environment.reset(TASK)
        for action in before:
            await environment.step(action)
        await environment.step("look")

    with pytest.raises(EnvError, match=r"call reset\(task\) first"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"listing": -1}, "cannot list its dev tasks .*the disk is gone"),
        ({"listing": 0}, "has no task in its dev fold"),
        ({"listing": 2}, "two dev tasks the same id"),
    ],
)
def test_a_task_list_that_is_no_good_is_an_error(options: dict[str, int], words: str) -> None:
    with pytest.raises(EnvError, match=words):
        asyncio.run(RealEnvironment(config(options=options)).tasks("dev", 2, 0))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mapreadr", f"'mapreadr' is neither one of {', '.join(sorted(REGISTRY))} nor a 'module:Class'"),
        ("no_such_module:Game", "No module named 'no_such_module'"),
        ("json:Game", "has no attribute 'Game'"),
        (":Game", "Empty module name"),
        ("json:JSONDecoder", "has no method 'tasks'"),
    ],
)
def test_an_unknown_environment_is_one_sentence_that_names_it(name: str, words: str) -> None:
    with pytest.raises(EnvError) as caught:
        env_class(name)
    assert words in str(caught.value)
    assert name in str(caught.value)


def test_a_class_in_the_working_directory_is_found_and_its_faults_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_game_module.py").write_text("class Game(:\n")
    with pytest.raises(EnvError, match=r"broken_game_module:Game.*SyntaxError"):
        env_class("broken_game_module:Game")
    methods = "".join(f"    def {m}(self, *a): ...\n" for m in ("tasks", "reset", "step", "close"))
    (tmp_path / "fine_game_module.py").write_text(f"class Game:\n{methods}")
    assert env_class("fine_game_module:Game").__name__ == "Game"


def test_wrong_options_name_the_field() -> None:
    with pytest.raises(EnvError, match=r"env\.options: .*no_such"):
        make_env(config(options={"no_such": 1}))


def test_a_stuck_environment_does_not_hold_up_the_end_of_the_program(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import threading\n"
        "class Stuck:\n"
        "    def tasks(self, fold, count, seed): return []\n"
        "    def reset(self, task): threading.Event().wait()\n"
        "    def step(self, action): ...\n"
        "    def close(self): ...\n"
    )
    program = (
        "import asyncio\n"
        "from dreamgym.config import EnvConfig\n"
        "from dreamgym.envs.base import RealEnvironment\n"
        "from dreamgym.types import Task\n"
        "env = RealEnvironment(EnvConfig(name='stuck:Stuck', timeout_s=0.1))\n"
        "print(asyncio.run(env.reset(Task('t', 'stuck', 'wait'))).status)\n"
    )
    command = [sys.executable, "-c", program]
    path = f"{ROOT}:{tmp_path}"
    done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stdout.strip() == "env_failed"
