"""The command `plan`: what a recipe needs of a machine, in memory, hours and money, before anything is started."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape
from rich.table import Table

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError
from dreamgym.inference.engine import quiet_environment
from dreamgym.planning import GB
from dreamgym.planning.advice import NONE, nearest, words
from dreamgym.planning.budget import Budget, Cost, Rates, assumptions, given
from dreamgym.planning.check import models_of
from dreamgym.planning.estimate import Estimate, Models, Row, dtype_of, estimate, on_gpus
from dreamgym.planning.machine import Machine, here, parse
from dreamgym.planning.settings import unfit
from dreamgym.planning.shapes import Shape
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import console


def plan(
    config: RunConfig,
    machine: str = "",
    price_per_hour: float = 0.0,
    rates: list[tuple[str, float]] | None = None,
) -> None:
    """Print the memory, time and cost of a run; no weights are loaded, only configurations are fetched.

    Args:
        machine: see `planning.machine.parse`; "" is this machine.
        price_per_hour: of the whole machine; 0 tells no money.
        rates: assumptions to replace, by name.

    Raises:
        ConfigError: something does not fit, or the machine, a rate or a model cannot be read.
    """
    assumed, on = given(dict(rates or [])), parse(machine) if machine else here()
    quiet_environment()
    models = models_of(config)
    found = estimate(config, models, on)
    console.print(_head(config, models, on), soft_wrap=True)
    console.print(_memory(found))
    for note in [*found.notes, *unfit(config, models)]:
        console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    if found.misfits:
        _refuse(config, models, on, found)
    _print_costs(Budget(config, models, on, found, assumed).costs(), assumed, price_per_hour)


def _refuse(config: RunConfig, models: Models, on: Machine, found: Estimate) -> None:
    for misfit in dict.fromkeys(misfit.said for misfit in found.misfits):
        console.print(f"[bold red]✗[/] {escape(misfit)}", soft_wrap=True)
    change = nearest(config, lambda tried: estimate(tried, models, on))
    remedy = f"what fits and is nearest: {words(change)}" if change else NONE
    first = found.misfits[0].said
    raise ConfigError(f"plan: the run does not fit {on.name} ({first}); {remedy}.")


def _head(config: RunConfig, models: Models, on: Machine) -> str:
    seen = "GPUs" if on_gpus(config, on) else "the CPU"
    roles = (("policy", models.policy, config.policy.model), ("experience model", models.world, config.world.model))
    told = [
        f"{role} {_named(shape)} with {_count(shape.weights)} weights in {dtype_of(model, on)}"
        for role, shape, model in roles
    ]
    return f"[bold]plan[/] on {escape(on.name)}, computing on {seen}: {escape(', '.join(told))}"


def _named(shape: Shape) -> str:
    return "from scratch" if shape.name == "scratch" else Path(shape.name).name


def _count(weights: int) -> str:
    return f"{weights / 1e9:.2f}B" if weights >= 1e8 else f"{weights / 1e6:.2f}M"


def _memory(found: Estimate) -> Table:
    table = Table(title="memory in GB (10^9 bytes), on each device", title_justify="left", title_style="bold", box=None)
    for name in ("stage", "part", "on"):
        table.add_column(name, no_wrap=True)
    for name in ("takes", "has"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("of which")
    for row in found.rows:
        has = f"{row.limit / GB:.1f}" if row.limit is not None else ""
        mark = "" if row.limit is None else "[green]✓[/]" if row.fits else "[bold red]✗[/]"
        table.add_row(row.stage, row.part, row.where, _gb(row.used), has, mark, escape(_inside(row)))
    return table


def _inside(row: Row) -> str:
    parts = [f"{name} {_gb(size)}" for name, size in row.parts.items() if size > 0]
    return " · ".join(parts) + (f" ({row.note})" if row.note else "")


def _gb(size: float) -> str:
    gb = size / GB
    return f"{gb:,.0f}" if gb >= 100 else f"{gb:.1f}" if gb >= 1 else f"{gb:.2f}"


def _print_costs(told: list[Cost], rates: Rates, price: float) -> None:
    table = Table(title="time, by the rates below", title_justify="left", title_style="bold", box=None)
    for name in ("stage", "part"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "rate", "time", *(["cost"] if price else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for cost in told:
        tokens = f"{cost.tokens:,.0f}" if cost.tokens else ""
        money = [f"{cost.seconds / 3600 * price:,.2f}"] if price else []
        table.add_row(cost.stage, cost.part, tokens, cost.rate, duration(cost.seconds), *money)
    seconds = sum(cost.seconds for cost in told)
    money = [f"{seconds / 3600 * price:,.2f}"] if price else []
    table.add_row("[bold]sum[/]", "", "", "", f"[bold]{duration(seconds)}[/]", *money)
    console.print(table)
    console.print(f"[dim]assumed (--rate NAME=VALUE gives another): {assumptions(rates)}[/]", soft_wrap=True)
    console.print("[dim]not counted: collecting and real steps without env_steps_per_s, annotating, idle time[/]")
    console.print("[green]✓[/] the run fits")
