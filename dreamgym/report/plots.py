"""The pictures of the report: one function a figure, each None where its data is missing."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter, StrMethodFormatter

from dreamgym.report.measures import (
    FIDELITY,
    LEARNING,
    SETS,
    calibration_points,
    fidelity_sets,
    leaf,
    smooth,
    time_rows,
)
from dreamgym.report.rundata import RunData

WIDTH_IN = 9.8
DPI = 144
Data = TypeVar("Data")


class Theme(NamedTuple):
    """Colours of the pictures."""

    back: str
    text: str
    grid: str
    palette: tuple[str, ...]


THEME = Theme(
    back="#ffffff",
    text="#333a45",
    grid="#e4e7ec",
    palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a"),
)
"""The palette is Okabe and Ito's, for colour-blind readers."""


def render(draw: Callable[[Data], Figure | None], data: Data) -> bytes | None:
    """A figure as PNG bytes, or None where there is nothing to draw."""
    with matplotlib.rc_context(_style()):
        figure = draw(data)
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def success(data: RunData) -> Figure | None:
    """Success while learning in the dream, and on the dev fold where it was measured: dreamed and real."""
    dream, real = (
        data.series("dream/success"),
        [r for r in data.of("eval") if r.get("real/success") is not None],
    )
    if not dream[0] and not real:
        return None
    figure, (ax,) = _axes(1, 3.4)
    if dream[0]:
        ax.plot(*dream, ".", ms=4, alpha=0.45, color=THEME.palette[0])
        ax.plot(
            dream[0],
            smooth(dream[1]),
            lw=2,
            color=THEME.palette[0],
            label=f"learning, {'dreamed' if data.dreamed else 'real'} (mean of 5)",
        )
    if (same := data.series("dream/dev_success"))[0]:
        ax.plot(*same, "s--", ms=5, lw=1.2, mfc=THEME.back, color=THEME.palette[0], label="dev fold, dreamed")
    if real:
        x, y = [r["iteration"] for r in real], np.array([r["real/success"] for r in real])
        low, high = (np.array([r.get(f"real/{k}", v) for r, v in zip(real, y, strict=True)]) for k in ("low", "high"))
        span = np.clip([y - low, high - y], 0, None)
        ax.errorbar(
            x,
            y,
            yerr=span,
            fmt="o-",
            lw=2,
            ms=5,
            capsize=3,
            elinewidth=1.2,
            color=THEME.palette[1],
            label="dev fold, real (95% interval)",
        )
    _percent(ax, "episodes won")
    ax.legend(loc="best")
    return figure


def learning(data: RunData) -> Figure | None:
    """Small multiples of what the optimiser did."""
    panels = [p for p in LEARNING if any(data.series(key)[0] for key in p[2])]
    if not panels:
        return None
    figure, axes = _axes(len(panels), 2.1, columns=3)
    for ax, (title, unit, lines, logarithmic) in zip(axes, panels, strict=True):
        for colour, (key, label) in zip(THEME.palette, lines.items(), strict=False):
            x, y = data.series(key)
            if x:
                ax.plot(x, y, lw=1.6, color=colour, label=label)
        if logarithmic:
            ax.set_yscale("log")
        _panel(ax, title, unit)
        if len(ax.lines) > 1:
            _legend_above(ax)
    return figure


def fidelity(data: RunData) -> Figure | None:
    """Fidelity of the dream over time, a panel a metric and a line a set; a set measured once is a dashed level."""
    sets = fidelity_sets(data)
    times = {name: max(len(data.series(f"fidelity/{name}/{m}")[0]) for m in FIDELITY) for name in sets}
    if max(times.values(), default=0) < 2:
        return None
    shown = [m for m in FIDELITY if any(data.series(f"fidelity/{s}/{m}")[0] for s in sets)]
    figure, axes = _axes(len(shown), 2.0, columns=4)
    for ax, metric in zip(axes, shown, strict=True):
        for colour, marker, name in zip(THEME.palette, "os^Dv", sets, strict=False):
            x, y = data.series(f"fidelity/{name}/{metric}")
            if times[name] == 1 and y:
                ax.axhline(y[0], ls="--", lw=1.3, color=colour, label=f"{SETS.get(name, name)} (measured once)")
            elif y:
                ax.plot(x, y, marker + "-", ms=3.5, lw=1.5, color=colour, label=SETS.get(name, name))
        _panel(ax, FIDELITY[metric], "")
        ax.set_ylim(-0.03, 1.03)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
    named = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=len(named))
    return figure


def calibration(data: RunData) -> Figure | None:
    """Dream success against real success of the same policy; on the diagonal the dream promises the truth."""
    points = calibration_points(data)
    if not points:
        return None
    figure, (ax,) = _axes(1, 4.0, width=4.2)
    ax.plot([0, 1], [0, 1], "--", lw=1, color=THEME.palette[6])
    ax.annotate(
        "the dream is right", (0.03, 0.055), rotation=45, fontsize=8, color=THEME.palette[6], rotation_mode="anchor"
    )
    _, x, y = zip(*points, strict=True)
    ax.plot(x, y, "-", lw=1, alpha=0.5, color=THEME.palette[0])
    ax.scatter(x, y, s=34, color=THEME.palette[0], zorder=3)
    for i in sorted({0, len(points) - 1}):
        ax.annotate(f"iteration {points[i][0]}", (x[i], y[i]), xytext=(6, -11), textcoords="offset points", fontsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1]))
        axis.set_major_formatter(PercentFormatter(1))
    ax.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        xlabel="won in the dream",
        ylabel="won in the real environment",
        aspect="equal",
    )
    return figure


def curriculum(data: RunData) -> Figure | None:
    """Task value, the share of invented tasks, and what became of the inventions."""
    fates = ["curriculum/admitted", *data.keys("curriculum/rejected_")]
    fates = [k for k in fates if data.total(k) is not None]
    lines = [
        ("Mean task value V", "variance of return", "curriculum/value_mean"),
        ("Invented tasks", "share of tasks", "curriculum/generated_share"),
    ]
    lines = [p for p in lines if data.series(p[2])[0]]
    if not lines and not fates:
        return None
    figure, axes = _axes(len(lines) + bool(fates), 2.4, columns=3)
    for ax, (title, unit, key) in zip(axes, lines, strict=False):
        ax.plot(*data.series(key), lw=1.6, color=THEME.palette[0])
        _panel(ax, title, unit)
        ax.set_ylim(bottom=0)
    if fates:
        _panel(axes[-1], "Fate of inventions", "tasks an iteration")
        _stacked(axes[-1], data, fates)
    return figure


def buffer(data: RunData) -> Figure | None:
    """What the replay buffer holds, and what its gate has refused so far."""
    panels = [("Buffer", ["replay/real", "replay/dream"]), ("Refused by the gate so far", data.keys("replay/refused_"))]
    panels = [(title, found) for title, keys in panels if (found := [k for k in keys if data.total(k)])]
    if not panels:
        return None
    figure, axes = _axes(len(panels), 2.4, columns=2)
    for ax, (title, keys) in zip(axes, panels, strict=True):
        x = [r["iteration"] for r in data.of("iteration")]
        levels = [np.interp(x, *data.series(k), left=0) for k in keys]
        ax.stackplot(x, levels, labels=[leaf(k) for k in keys], colors=THEME.palette, alpha=0.85)
        _panel(ax, title, "transitions")
        _legend_above(ax)
    return figure


def time_parts(data: RunData) -> Figure | None:
    """Where the wall time went: each stage, and the parts of those that tell."""
    rows = time_rows(data)
    if not rows:
        return None
    figure, (ax,) = _axes(1, 0.5 + 0.27 * len(rows))
    names, seconds = [n for n, _ in rows], [s for _, s in rows]
    bars = ax.barh(names, seconds, height=0.66, color=THEME.palette[0])
    total = sum(seconds)
    ax.bar_label(bars, [f" {s:.0f} s · {s / total:.0%}" for s in seconds], fontsize=8, color=THEME.text)
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.set_xlim(0, max(seconds) * 1.18)
    ax.grid(False, axis="y")
    ax.tick_params(axis="y", length=0)
    return figure


def _style() -> dict[Any, Any]:
    return {
        "figure.facecolor": THEME.back,
        "axes.facecolor": THEME.back,
        "savefig.facecolor": THEME.back,
        "text.color": THEME.text,
        "axes.labelcolor": THEME.text,
        "axes.edgecolor": THEME.grid,
        "xtick.color": THEME.text,
        "ytick.color": THEME.text,
        "grid.color": THEME.grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8.5,
    }


def _axes(count: int, height: float, columns: int = 1, width: float = WIDTH_IN) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, `height` inches each; surplus cells stay empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax in axes[:count]:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, axes[:count]


def _panel(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title)
    ax.set_xlabel("iteration", fontsize=8)
    ax.set_ylabel(unit, fontsize=8)
    if ax.get_ylim()[1] >= 1000:
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _percent(ax: Axes, label: str) -> None:
    ax.set(xlabel="iteration", ylabel=label, ylim=(-0.02, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1))


def _stacked(ax: Axes, data: RunData, keys: Sequence[str]) -> None:
    bottom: dict[int, float] = {}
    for colour, key in zip(THEME.palette, keys, strict=False):
        x, y = data.series(key)
        ax.bar(x, y, bottom=[bottom.get(i, 0.0) for i in x], width=0.85, color=colour, label=leaf(key))
        bottom.update({i: bottom.get(i, 0.0) + v for i, v in zip(x, y, strict=True)})
    _legend_above(ax)


def _legend_above(ax: Axes) -> None:
    """The legend in one row between title and axes, where it hides no data."""
    ax.set_title(ax.get_title(loc="left"), pad=17)
    entries = len(ax.get_legend_handles_labels()[1])
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=entries, fontsize=7.5,
        handlelength=1, handletextpad=0.4, columnspacing=0.9, borderaxespad=0,
    )  # fmt: skip
