"""The command `dreamgym`: reads a recipe and overrides, calls one stage, and turns errors into one sentence."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import itertools
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from dreamgym.api import load
from dreamgym.api import run as run_command
from dreamgym.commands import COMMANDS
from dreamgym.config import RunConfig
from dreamgym.config.loading import COMMAND_LINE, describe_fields
from dreamgym.errors import ConfigError, DreamgymError

QUICKSTART = Path("recipes/quickstart.yaml")
BY_QUICKSTART = ("quickstart", "experiment")
"""Commands for which that recipe is the default."""
RECIPE = "[RECIPE] [field=value ...]"
WORDS = {"experiment": f"TABLE {RECIPE}", "view": "[RUN ...] [field=value ...]"}
"""What stands behind a command, where it is more or other than a recipe."""
MODELS = ("policy", "world")
PLAYERS = ("policy", "policy_real", "dpo", "warm_start", "random", "expert")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_OVERRIDE = re.compile(r"(\w+:)?[A-Za-z_][\w.]*\s*=")


def _seeds(text: str) -> list[int]:
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no list of whole numbers, such as 0,1,2")
    return [int(seed) for seed in text.split(",")]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return value


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) >= 2**16:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)


def _rate(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=VALUE, such as answer=0.8")
    return name, _positive(value)


class Option(NamedTuple):
    """An option of a command: its name, its value in words, what it means, and what argparse must know."""

    name: str
    value: str
    help: str
    given: dict[str, Any]


OPTIONS = {
    "eval": [
        Option(
            "--who",
            "|".join(PLAYERS),
            "the policy after the dream (default), real rollouts or DPO, its warm start, or a player without a model",
            {"choices": PLAYERS, "default": "policy"},
        )
    ],
    "serve": [
        Option(
            "--what",
            "|".join(MODELS),
            "the trained policy (default), or the experience model",
            {"choices": MODELS, "default": "policy"},
        )
    ],
    "plan": [
        Option(
            "--machine", "8xA100-80", "GPUs x name-GB, 2x8xH100-80 with nodes, or cpu:16x64; without it, this machine",
            {"default": ""},
        ),
        Option(
            "--price-per-hour", "X", "of the whole machine, in any currency",
            {"type": _positive, "default": 0.0, "dest": "price_per_hour"},
        ),
        Option(
            "--rate", "NAME=VALUE", "replaces an assumption that `plan` prints; may be given several times",
            {"type": _rate, "action": "append", "default": [], "dest": "rates"},
        ),
    ],
    "view": [
        Option(
            "--host", "ADDRESS", "where to listen; one that others can reach asks for a token",
            {"default": "127.0.0.1"},
        ),
        Option("--port", "N", "the port; without it, a free one", {"type": _port, "default": 0}),
        Option("--no-open", "", "print the address, and open no browser", {"action": "store_true"}),
        Option(
            "--play", "", "load the experience model of the one run, so that its dream can be played on the page",
            {"action": "store_true"},
        ),
    ],
    "play": [Option("--task", "ID", "the task to begin with; without it, the first of the run", {"default": ""})],
    "fidelity": [
        Option(
            "--judged", "", "on the steps that were judged by hand (judged.jsonl), not on held-out real ones",
            {"action": "store_true"},
        )
    ],
    "experiment": [
        Option("--env", "NAME", "the real environment, where it is not the recipe's", {"default": ""}),
        Option("--seeds", "0,1,2", "a job for each of them and each row", {"type": _seeds, "default": [0, 1, 2]}),
        Option(
            "--rows", "ROW,ROW", "run these only; the table shows all that is finished",
            {"type": lambda text: text.split(","), "default": []},
        ),
        Option("--results", "DIR", "the folder of the table (JSON, Markdown, PNG); the default is out", {"type": Path}),
    ],
}  # fmt: skip


FORCE = Option(
    "--force", "", "make the stage anew, though it was done before with these settings", {"action": "store_true"}
)
for _name, _command in COMMANDS.items():
    if _command.stages:
        OPTIONS[_name] = [*OPTIONS.get(_name, []), FORCE]


class _Parser(argparse.ArgumentParser):
    """Mistakes on the command line are errors like any other: one sentence."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{COMMAND_LINE}: {message}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a bug, 2 for the user's to mend, 128 + n for signal n."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0
    if arguments[0] == "--version":
        print(importlib.import_module("dreamgym").__version__)
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except (DreamgymError, OSError) as error:
        cause = getattr(error, "cause", None) or error  # an error that crossed Ray carries its traceback as text
        if isinstance(cause, OSError) and cause.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        full = "the disk is full ({}); make room, and run the same command again to go on."
        told = full.format(cause) if isinstance(cause, OSError) else str(cause)
        sentence = escape(_CONTROL.sub(" ", told))  # it may hold text of models, which must not steer a terminal
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {sentence}")
        return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(COMMANDS)}."
        raise ConfigError(f"{COMMAND_LINE}: no command '{name}'; {remedy}")
    if {"-h", "--help"} & set(arguments):
        _print_help(name)
        return 0
    config, options = _parse(name, arguments)
    from dreamgym.runtime.processes import no_process_left

    try:
        with no_process_left():
            run_command(name, config, **options)
    except KeyboardInterrupt as stop:
        return _stopped(name, config, getattr(stop, "code", 128 + signal.SIGINT))
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:  # what Ray's own handler of SIGTERM exits with
            raise
        return _stopped(name, config, 128 + signal.SIGTERM)
    return 0


def _parse(name: str, arguments: Sequence[str]) -> tuple[RunConfig, dict[str, Any]]:
    parser = _Parser(prog=f"dreamgym {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    for option in OPTIONS.get(name, []):
        parser.add_argument(option.name, **option.given)
    options = vars(parser.parse_intermixed_args(list(arguments)))
    words = options.pop("words")
    overrides = [w for w in words if _OVERRIDE.match(w)]
    recipes = [Path(w) for w in words if not _OVERRIDE.match(w)]
    if name == "experiment":
        options["table"] = str(recipes.pop(0)) if recipes else ""
    if name == "view":
        options["runs"], recipes = recipes, []
    if len(recipes) > 1:
        raise ConfigError(f"{COMMAND_LINE}: one recipe at a time, not '{recipes[0]}' and '{recipes[1]}'.")
    if not recipes and name in BY_QUICKSTART:
        recipes = [QUICKSTART]
    if name == "experiment":
        env = options.pop("env")
        if recipes[0].is_dir():
            raise ConfigError(f"{COMMAND_LINE}: '{recipes[0]}' is a folder; an experiment starts from a recipe.")
        options |= {"recipe": recipes[0], "words": [*([f"env.name={env}"] if env else []), *overrides]}
        overrides = [w for w in options["words"] if ":" not in w.partition("=")[0]]
    return load(recipes[0] if recipes else None, *overrides), options


def _stopped(name: str, config: RunConfig, code: int) -> int:
    folder = config.out if name == "experiment" else config.run_dir
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"stopped; finished work is kept in {escape(str(folder))}; run the same command again to go on"
    )
    return code


def _print_overview() -> None:
    console = Console(highlight=False)
    console.print("[bold]dreamgym[/] COMMAND " + escape("[RECIPE] [field=value ...]\n"))
    console.print("Trains LLM agents by reinforcement learning inside a learned dream of their environment.\n")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for name, command in COMMANDS.items():
        table.add_row(f"[cyan]{name}[/]", command.help)
    console.print(table)
    console.print("\n[dim]`dreamgym COMMAND --help` documents every field.[/]")


def _print_help(name: str) -> None:
    console = Console(highlight=False)
    options = OPTIONS.get(name, [])
    usage = " ".join([WORDS.get(name, RECIPE), *(f"[{' '.join(filter(None, option[:2]))}]" for option in options)])
    console.print(f"[bold]dreamgym {name}[/] {escape(usage)}\n\n{COMMANDS[name].help}\n")
    recipe = f"the default is {QUICKSTART}" if name in BY_QUICKSTART else "without one, every field has its default"
    words = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    if name == "view":
        words.add_row("[cyan]RUN[/]", "the folder of a run, or one with runs in it; without any, all runs below `out`")
    else:
        words.add_row("[cyan]RECIPE[/]", f"a YAML file, or the folder of a run; {recipe}")
    words.add_row(
        "[cyan]field=value[/]", "sets one field, over the recipe: learner.lr=1e-6, env.options.numLocations=5"
    )
    for option in options:
        words.add_row(f"[cyan]{option.name}[/]", option.help)
    console.print(Padding(words, (0, 0, 0, 2)))
    if name == "experiment":
        _print_tables(console)
    console.print("\n[bold]Fields[/] [dim](type, default)[/]")
    for section, fields in itertools.groupby(describe_fields(), lambda f: f.section):
        console.print(f"\n[bold]{section or 'run'}[/]")
        for field in fields:
            given = escape(f"({field.type}, {field.default or 'empty'})")
            console.print(Padding(f"[cyan]{field.name}[/] [dim]{given}[/]", (0, 0, 0, 2)))
            console.print(Padding(escape(field.help), (0, 0, 0, 6)))


def _print_tables(console: Console) -> None:
    """The rows of each table, and what they set over the recipe and over `field=value`."""
    from dreamgym.commands.paper_tables import ROWS, TABLES

    for name, rows in TABLES.items():
        console.print(f"\n[bold]{name}[/] [dim]rows; ROW:field=value sets a field of one of them[/]")
        shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            shown.add_row(f"[cyan]{row}[/]", ROWS[row].label, f"[dim]{escape(' '.join(ROWS[row].settings))}[/]")
        console.print(Padding(shown, (0, 0, 0, 2)))


def run() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
