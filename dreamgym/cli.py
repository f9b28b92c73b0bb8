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
from typing import NamedTuple, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError, DreamgymError
from dreamgym.settings import COMMAND_LINE, describe_fields, load_config

QUICKSTART = Path("recipes/quickstart.yaml")
OPTIONS = {
    "eval": (
        "--who",
        ("policy", "policy_real", "dpo", "warm_start", "random", "expert"),
        "the policy after the dream (default), real rollouts or DPO, its warm start, or a player without a model",
    ),
    "serve": ("--what", ("policy", "world"), "the trained policy (default), or the experience model"),
}
"""The option of a command: its name, its choices with the default first, and what it means."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*\s*=")


class Command(NamedTuple):
    """A stage: the function that runs it, as `module:function`, and what it does."""

    target: str
    help: str


COMMANDS = {
    "quickstart": Command("dreamgym.stages.quickstart:quickstart", "The whole way, from collecting to the report."),
    "collect": Command(
        "dreamgym.stages.collect:collect", "Record expert, noisy and random play of the real environment."
    ),
    "annotate": Command("dreamgym.stages.annotate:annotate", "Write the reasoning of every recorded transition."),
    "sft": Command("dreamgym.stages.sft:sft", "Train the experience model, and warm-start the policy."),
    "train": Command("dreamgym.stages.train:train", "Train the policy by reinforcement learning in the dream."),
    "real": Command("dreamgym.stages.real:real", "Go on in the real environment, for a budget of transitions."),
    "dpo": Command("dreamgym.stages.dpo:dpo", "Tune the warm start by DPO on pairs of recorded trajectories."),
    "eval": Command(
        "dreamgym.stages.evaluate:evaluate", "Measure a player in the real environment, with a 95% interval."
    ),
    "report": Command("dreamgym.stages.report:report", "Write one page on the run: report.html and report.md."),
    "serve": Command("dreamgym.stages.serve:serve", "Open a trained model as an OpenAI-compatible HTTP endpoint."),
    "doctor": Command("dreamgym.stages.doctor:doctor", "Check a cluster, or this machine, before a run."),
}


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
    from dreamgym.obs.processes import no_process_left

    try:
        with no_process_left():
            module, _, function = COMMANDS[name].target.partition(":")
            getattr(importlib.import_module(module), function)(config, **options)
    except KeyboardInterrupt as stop:
        return _stopped(config, getattr(stop, "code", 128 + signal.SIGINT))
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:  # what Ray's own handler of SIGTERM exits with
            raise
        return _stopped(config, 128 + signal.SIGTERM)
    return 0


def _parse(name: str, arguments: Sequence[str]) -> tuple[RunConfig, dict[str, str]]:
    parser = _Parser(prog=f"dreamgym {name}", add_help=False, allow_abbrev=False)
    parser.add_argument("words", nargs="*")
    if name in OPTIONS:
        option, choices, _ = OPTIONS[name]
        parser.add_argument(option, choices=choices, default=choices[0])
    options = vars(parser.parse_intermixed_args(list(arguments)))
    words = options.pop("words")
    overrides = [w for w in words if _OVERRIDE.match(w)]
    recipes = [Path(w) for w in words if not _OVERRIDE.match(w)]
    if len(recipes) > 1:
        raise ConfigError(f"{COMMAND_LINE}: one recipe at a time, not '{recipes[0]}' and '{recipes[1]}'.")
    if not recipes and name == "quickstart":
        recipes = [QUICKSTART]
    return load_config(recipes[0] if recipes else None, overrides), options


def _stopped(config: RunConfig, code: int) -> int:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"stopped; finished work is kept in {escape(str(config.run_dir))}; run the same command again to go on"
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
    option, choices, told = OPTIONS.get(name, ("", (), ""))
    usage = "[RECIPE] [field=value ...]" + (f" [{option} {'|'.join(choices)}]" if option else "")
    console.print(f"[bold]dreamgym {name}[/] {escape(usage)}\n\n{COMMANDS[name].help}\n")
    recipe = f"the default is {QUICKSTART}" if name == "quickstart" else "without one, every field has its default"
    words = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    words.add_row("[cyan]RECIPE[/]", f"a YAML file; {recipe}")
    words.add_row("[cyan]field=value[/]", "sets one field, over the recipe: learner.lr=1e-6, env.options.num_rooms=4")
    if option:
        words.add_row(f"[cyan]{option}[/]", told)
    console.print(Padding(words, (0, 0, 0, 2)))
    console.print("\n[bold]Fields[/] [dim](type, default)[/]")
    for section, fields in itertools.groupby(describe_fields(), lambda f: f.section):
        console.print(f"\n[bold]{section or 'run'}[/]")
        for field in fields:
            given = escape(f"({field.type}, {field.default or 'empty'})")
            console.print(Padding(f"[cyan]{field.name}[/] [dim]{given}[/]", (0, 0, 0, 2)))
            console.print(Padding(escape(field.help), (0, 0, 0, 6)))


def run() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(main())


if __name__ == "__main__":
    run()
