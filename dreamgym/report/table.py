"""A table of rows x seeds: means with intervals over the seeds, as JSON, as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from dreamgym.report.plots import THEME, WIDTH_IN, render
from dreamgym.report.render import Plot, Section, Table, Text, to_markdown
from dreamgym.runs.folder import write_json, write_text
from dreamgym.runtime.machine import machine
from dreamgym.telemetry.stats import t_interval

Run = dict[str, Any]
"""What came of one row and one seed: seed, success, wilson95, games, real_transitions, tokens, minutes and more."""
Summary = dict[str, Any]

HOW = (
    "Means over the seeds. The interval is Student's t over the success rates of the seeds, cut at 0 and 1; of a "
    "single seed it is Wilson's over its games. per_seed holds Wilson's for the games of each. All rows of a seed play "
    "the same games; differences to the first row are paired by seed. real_transitions are those that RL learned from; "
    "offline_transitions is the seed data that all rows have. tokens (of tuning, and of rollouts by policy and dream) "
    "and minutes are of all stages that made the player, as if it had been made alone: a stage that rows share was run "
    "once and counts in each of them. The final measurement does not count."
)


def write_table(
    folder: Path, name: str, command: str, labels: Mapping[str, str], runs: Mapping[str, Sequence[Run]]
) -> Path:
    """Write `name`.json, .md and .png into a folder; returns the path of the Markdown.

    Args:
        labels: what each row is, in the order of the table.
        runs: of each row those that are finished, by seed.
    """
    rows = summarise(labels, runs)
    today = datetime.now(UTC).date().isoformat()
    head = {"command": command, "machine": machine(), "date": today, "how": HOW}
    write_json(folder / f"{name}.json", head | {"rows": rows})
    picture = render(draw, rows) if rows else None
    page = Section("Games won in the real environment")
    if picture is not None:
        (folder / f"{name}.png").write_bytes(picture)
        page.blocks += [_table(rows), Plot(name, "Mean and 95% interval over the seeds; a dot a seed.", picture)]
    missing = [label for row, label in labels.items() if not runs.get(row)]
    if missing:
        page.blocks.append(Text(f"Not measured yet: {'; '.join(missing)}.", alarm=True))
    page.blocks.append(Text(HOW))
    text = to_markdown(f"dreamgym · {name}", f"{command} · {head['machine']} · {today}", [page], ".")
    write_text(folder / f"{name}.md", text)
    return folder / f"{name}.md"


def summarise(labels: Mapping[str, str], runs: Mapping[str, Sequence[Run]]) -> list[Summary]:
    """A line for each row that has a finished run, in the order of `labels`.

    success_mean and ci95 are shares of games; points_over_first and its interval are percentage points over the first
    row of `labels`, of the seeds that both have (None without such, or for a single one).
    """
    first = {run["seed"]: run["success"] for run in runs.get(next(iter(labels)), [])}
    rows = []
    for at, (name, label) in enumerate(labels.items()):
        mine = sorted(runs.get(name, []), key=lambda run: run["seed"])
        if not mine:
            continue
        won = [run["success"] for run in mine]
        over = [100 * (run["success"] - first[run["seed"]]) for run in mine if at and run["seed"] in first]
        interval = _interval(won) or mine[0]["wilson95"]
        rows.append(
            {
                "name": name,
                "label": label,
                "seeds": [run["seed"] for run in mine],
                "success_mean": round(mean(won), 4),
                "ci95": [round(min(max(end, 0.0), 1.0), 4) for end in interval],
                "points_over_first": round(mean(over), 2) if over else None,
                "points_over_first_ci95": [round(end, 2) for end in _interval(over) or []] or None,
                "games": min(run["games"] for run in mine),
                **{key: round(mean(run[key] for run in mine)) for key in ("real_transitions", "tokens")},
                "minutes": round(mean(run["minutes"] for run in mine), 2),
                "per_seed": mine,
            }
        )
    return rows


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    return t_interval(values)[1:] if len(values) > 1 else None


def _table(rows: Sequence[Summary]) -> Table:
    header = ["row", "games won", "95% interval", "by seed", "points over the first row", "games a seed",
              "real transitions in RL", "tokens", "minutes"]  # fmt: skip
    cells = [
        [r["label"], f"{r['success_mean']:.1%}", _span(r["ci95"], "{:.1%}"),
         ", ".join(f"{run['success']:.1%}" for run in r["per_seed"]), _over(r), f"{r['games']:,}",
         f"{r['real_transitions']:,}", f"{r['tokens']:,}", f"{r['minutes']:.1f}"]
        for r in rows
    ]  # fmt: skip
    return Table(header, cells)


def _span(ends: Sequence[float] | None, form: str) -> str:
    return " to ".join(map(form.format, ends)) if ends else "–"


def _over(row: Summary) -> str:
    if row["points_over_first"] is None:
        return "–"
    ends = row["points_over_first_ci95"]
    return f"{row['points_over_first']:+.1f}" + (f" ({_span(ends, '{:+.1f}')})" if ends else "")


def draw(rows: Sequence[Summary]) -> Figure:
    """A line a row, the first on top: a dot a seed, the mean, and its interval where there is one."""
    figure = Figure(figsize=(WIDTH_IN, 0.9 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for y, row in enumerate(rows):
        ax.plot([run["success"] for run in row["per_seed"]], [y] * len(row["seeds"]), "o", ms=4, color=THEME.palette[5])
        if row["ci95"]:
            ax.plot(row["ci95"], [y, y], "-", lw=1.6, color=THEME.palette[0])
        ax.plot(row["success_mean"], y, "D", ms=6, color=THEME.palette[0])
    ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
    ax.set(xlabel="games won in the real environment", xlim=(-0.02, 1.02), ylim=(len(rows) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    return figure
