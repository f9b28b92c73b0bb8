"""The command `play`: the dream of a run, played by hand in the terminal, with its answers judged."""

from __future__ import annotations

import asyncio
import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dreamgym.config import RunConfig
from dreamgym.errors import DataError, DreamgymError
from dreamgym.play.player import Played, Player, Right, Turn
from dreamgym.play.tasks import tasks_of
from dreamgym.play.world import LocalWorld, open_world
from dreamgym.telemetry.console import console, waiting
from dreamgym.training.checkpoints import checkpoints, newest_world
from dreamgym.view.play import parted

HELP = {
    "/back [N]": "step back, once or N times, to try another action",
    "/real": "show what the real environment says beside the dream, or stop showing it",
    "/right, /wrong, /unreadable": "judge the last answer; for a wrong one you may say what is right",
    "/task ID": "play another task",
    "/tasks [TEXT]": "list tasks, those with a text in them",
    "/again": "begin the task anew, in another dream of it",
    "/quit": "end",
}
LISTED = 20
END = {
    "won": "The dream says: the task is solved.",
    "lost": "The dream says: it is over, and the task is not solved.",
    "cut": "That was the last step that an episode may have (env.max_steps).",
    "full": "The dream's context window is full, so this action has no answer (world.engine.max_model_len).",
    "unreadable": "The dream gave no answer that can be read.",
    "failed": "The engine gave no answer; step back and ask again.",
}
PARTED = {
    "begin": "the first states differ",
    "state": "another state",
    "outcome": "another reward or end",
    "end": "one of them ends",
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def play(config: RunConfig, task: str = "", ask: Callable[[str], str] = input) -> None:
    """Play in the terminal until `/quit` or the end of the input; judged steps go to `judged.jsonl` of the run.

    Args:
        task: the id of the task to begin with; the first of the run without it.
        ask: reads a line from the person, after a prompt.

    Raises:
        DataError: the run has no experience model yet, or no such task.
        ModelError: the model cannot be loaded.
    """
    tasks = tasks_of(config.run_dir, config.env.name)
    if task and task not in tasks:
        raise DataError(f"--task: no task '{task}' in {config.run_dir}; choose one of its {len(tasks):,} tasks.")
    with suppress(ImportError):
        importlib.import_module("readline")  # the arrow keys, in what is asked for
    with playing(config) as (runner, player):
        Terminal(runner, player, console, ask).talk(task or next(iter(tasks)))


@contextmanager
def playing(config: RunConfig) -> Iterator[tuple[asyncio.Runner, Player]]:
    """A player of a run's dream, and the runner on whose loop it lives. Raises as `play`."""
    tasks = tasks_of(config.run_dir, config.env.name)
    with dreaming(config) as (runner, world, model):
        player = Player(config, world, f"{config.run_dir.name}/{model.name}", tasks)
        try:
            yield runner, player
        finally:
            runner.run(player.close())


@contextmanager
def dreaming(config: RunConfig) -> Iterator[tuple[asyncio.Runner, LocalWorld, Path]]:
    """The experience model that the run dreamed with last, in this process; its runner and its folder.

    Raises:
        DataError: the run has none yet.
        ModelError: it cannot be loaded.
    """
    trained = config.run_dir / "train"
    model = newest_world(trained) or config.run_dir / "world"
    if not (model / "config.json").is_file():
        raise DataError(f"{model}: no experience model yet; run `dreamgym sft` first.")
    saved = checkpoints(trained)
    with asyncio.Runner() as runner:
        with waiting("starting the experience model"):
            world = runner.run(open_world(config, model, saved[-1] if saved else None))
        try:
            yield runner, world, model
        finally:
            runner.run(world.close())


class Terminal:
    """What a person types, and what is printed; the episode is the list of actions so far."""

    def __init__(self, runner: asyncio.Runner, player: Player, out: Console, ask: Callable[[str], str]) -> None:
        self._runner, self._player, self._out, self._ask = runner, player, out, ask
        self._task, self._draw, self._actions, self._beside = "", 0, list[str](), False
        self._played: Played | None = None

    def talk(self, task: str) -> None:
        """Until the input ends."""
        self._say("Type an action, as the agent would; /help tells what else can be typed.", "dim")
        self._begin(task)
        with suppress(EOFError):
            while (typed := self._ask("> ").strip()) != "/quit":
                try:
                    self._do(typed)
                except DreamgymError as error:
                    self._say(str(error), "yellow")

    def _do(self, typed: str) -> None:
        word, _, rest = typed.partition(" ")
        rest = rest.strip()
        commands: dict[str, Callable[[], None]] = {
            "/help": self._help,
            "/back": lambda: self._back(rest),
            "/real": self._real,
            "/right": lambda: self._judge("right"),
            "/wrong": lambda: self._judge("wrong"),
            "/unreadable": lambda: self._judge("unreadable"),
            "/task": lambda: self._begin(rest),
            "/tasks": lambda: self._list(rest),
            "/again": lambda: self._begin(self._task, self._draw + 1),
        }
        if word in commands:
            commands[word]()
        elif typed.startswith("/") and not typed.startswith("//"):
            raise DataError(f"no command {word}; /help lists them (an action that begins with / is typed with two).")
        elif typed:
            self._go([*self._actions, self._player.action(typed.removeprefix("/"))])
            self._show_last()

    def _help(self) -> None:
        for name, what in HELP.items():
            self._say(f"{name:<30}{what}", "dim")

    def _go(self, actions: list[str]) -> None:
        self._played = self._runner.run(self._player.play(self._task, self._draw, actions, self._beside))
        self._actions = self._played.actions
        if self._played.over == "full":
            self._say(END["full"], "yellow")

    def _begin(self, task: str, draw: int = 0) -> None:
        before = self._task, self._draw, self._actions
        self._task, self._draw = task, draw
        try:
            self._go([])
        except DataError:
            self._task, self._draw, self._actions = before
            raise
        assert self._played is not None
        known = self._played.task
        where = "invented" if known.task.origin == "generated" else f"{known.fold} fold"
        self._say(f"\ntask {task} ({where}), dream {draw + 1}", "dim")
        self._say(known.task.instruction, "bold")
        self._say(known.task.first_state)

    def _back(self, times: str) -> None:
        if times and not re.fullmatch("[0-9]{1,6}", times):
            raise DataError(f"'{times}' is no number of steps; type /back or, say, /back 2.")
        if not self._actions:
            raise DataError("this is the beginning; there is no step to go back.")
        self._go(self._actions[: max(0, len(self._actions) - int(times or 1))])
        assert self._played is not None
        steps = self._played.steps
        self._say(f"after {len(steps)} steps", "dim")
        self._say(steps[-1].next_state if steps else self._played.task.task.first_state)

    def _real(self) -> None:
        self._beside = not self._beside
        if not self._beside:
            self._say("the real environment is not shown any more", "dim")
            return
        with waiting("asking the real environment", self._out):
            self._go(self._actions)
        self._show_beside()

    def _list(self, text: str) -> None:
        found = [(i, t) for i, t in self._player.tasks.items() if text in i or text in t.task.instruction]
        for task_id, known in found[:LISTED]:
            self._say(f"{task_id}  {known.task.instruction}")
        self._say(f"{len(found):,} tasks{f', of which {LISTED} are shown' if len(found) > LISTED else ''}", "dim")

    def _judge(self, verdict: str) -> None:
        right = self._what_is_right() if verdict == "wrong" and self._actions else None
        asked = self._player.judge(self._task, self._draw, self._actions, verdict, right, self._beside)  # type: ignore[arg-type]
        step = self._runner.run(asked)
        known = {"person": "; you said what is right", "real": "; the real environment said what is right"}
        self._say(f"judged {verdict}{known.get(step.truth_by, '')}, in {self._player.file}", "green")

    def _what_is_right(self) -> Right | None:
        self._say("What is the right next state? An empty line ends it, and leaves it open where it is all.", "dim")
        lines = []
        while line := self._ask("  "):
            lines.append(line)
        if not lines:
            return None
        reward = self._ask("reward [0]: ").strip() or "0"
        if not re.fullmatch(r"-?[0-9]{1,30}(\.[0-9]{1,30})?", reward):
            raise DataError(f"'{reward}' is no reward; nothing was judged.")
        done = self._ask("is the episode over? [no]: ").strip().lower() in ("y", "yes")
        return Right("\n".join(lines), float(reward), done, self._ask("why (may be empty): ").strip())

    def _show_last(self) -> None:
        played = self._played
        assert played is not None
        if played.over != "full" and played.turns:
            self._show(played.turns[-1])
            if played.over:
                self._say(END[played.over], "bold" if played.over == "won" else "yellow")
        self._show_beside()

    def _show(self, turn: Turn) -> None:
        for demo in turn.shown:
            like = f"{_last(demo.state)} > {demo.action} = {_last(demo.next_state)}"
            self._say(f"shown {demo.score:.2f} {demo.world}: {like}", "dim")
        if not turn.shown and not turn.error:
            self._say("shown no demonstration", "dim")
        if turn.error:
            self._say(turn.error, "yellow")
            return
        if turn.step.reasoning:
            self._say(f"reasons: {turn.step.reasoning}", "dim")
        if turn.overruled:
            self._say("the first answer solved the task, and further ones outvoted it", "dim")
        self._say(turn.step.next_state)
        if turn.step.reward:
            self._say(f"reward {turn.step.reward:g}", "bold")

    def _show_beside(self) -> None:
        played = self._played
        if played is None or played.beside is None:
            return
        real = played.beside
        if real.error:
            self._say(f"the real environment cannot tell: {real.error}", "yellow")
            return
        if len(real.steps) == len(played.turns) > 0:
            self._say(f"for real: {real.steps[-1].next_state}", "cyan")
            if real.steps[-1].reward or real.steps[-1].done:
                self._say(f"for real: reward {real.steps[-1].reward:g}{', the end' * real.steps[-1].done}", "cyan")
        elif real.steps:
            self._say(f"for real the episode ended at step {len(real.steps)}", "cyan")
        if difference := parted(played):
            self._say(f"first difference at step {difference['step'] + 1}: {PARTED[difference['what']]}", "magenta")

    def _say(self, text: str, style: str = "") -> None:
        """Text of models and environments among it, which must not steer a terminal."""
        self._out.print(Text(_CONTROL.sub("�", text), style), soft_wrap=True)


def _last(state: str) -> str:
    return state.rpartition("\n")[2]
