"""A run in Markdown: what it reached, whether its dream can be trusted, and where the time went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dreamgym.report import plots
from dreamgym.report.findings import (
    again,
    fidelity_table,
    kindness,
    malformed,
    result,
    stage_table,
    token_table,
    unreadable,
)
from dreamgym.report.render import Block, Listing, Pair, Plot, Section, to_markdown
from dreamgym.report.rundata import RunData, busy_seconds, headline, read_run
from dreamgym.runs.folder import write_json, write_text
from dreamgym.telemetry.clock import duration

PLOT_FOLDER = "report-plots"


def write_markdown(run_dir: Path) -> None:
    """Write report.md with its pictures, and report.json (the headline) into a run folder.

    Raises:
        DataError: there is no run, or a file in it is broken.
    """
    data = read_run(run_dir)
    title, subtitle, sections = _title(data), _subtitle(data), build(data)
    for block in (b for s in sections for b in s.blocks if isinstance(b, Plot)):
        path = run_dir / PLOT_FOLDER / f"{block.name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(block.picture)
    write_text(run_dir / "report.md", to_markdown(title, subtitle, sections, PLOT_FOLDER))
    write_json(run_dir / "report.json", headline(data))


def build(data: RunData) -> list[Section]:
    """The sections for which there is data, in the order of the page."""
    makers = (result, _success, _trust, _learning, _curriculum, _buffer, _cost, _episodes, _config)
    return [section for maker in makers if (section := maker(data)).blocks]


def _title(data: RunData) -> str:
    return f"dreamgym · {data.run_dir.name}"


def _subtitle(data: RunData) -> str:
    words = [f"environment {data.settings['env']['name']}", f"seed {data.settings['seed']}"]
    if data.stages:
        words += [f"begun {data.stages[0]['started'][:16].replace('T', ' ')} UTC", duration(busy_seconds(data.stages))]
        words.append(f"peak memory {max(s['peak_gib'] for s in data.stages):.1f} GiB")
    return " · ".join(words)


def _success(data: RunData) -> Section:
    title, caption = "Success in the real environment", "Games won. The dev fold is only measured."
    if data.dreamed:
        title = "Success, dreamed and real"
        caption = "Games won. The dream is where the policy learns; the dev fold is only measured, dreamed and real."
    return Section(title, _plot("success", caption, plots.success, data))


def _trust(data: RunData) -> Section:
    section = Section("Can the dream be trusted?")
    if not data.dreamed:
        return section
    section.blocks += [*unreadable(data), *kindness(data), *again(data), *fidelity_table(data)]
    section.blocks += _plot("fidelity", "Fidelity on real transitions, while learning.", plots.fidelity, data)
    caption = "Success of the same policy, dreamed and real; below the diagonal the dream is too kind."
    section.blocks += _plot("calibration", caption, plots.calibration, data)
    return section


def _learning(data: RunData) -> Section:
    caption = "The learner, an iteration a point. Gaps are |engine − learner| logprobs of the sampled tokens."
    return Section("Learning", [*malformed(data), *_plot("learning", caption, plots.learning, data)])


def _curriculum(data: RunData) -> Section:
    caption = "V is the variance of the return within a task's group: high where the policy is half good."
    return Section("Curriculum", _plot("curriculum", caption, plots.curriculum, data))


def _buffer(data: RunData) -> Section:
    caption = "The replay buffer by the world its transitions come from, and why the write gate refused others."
    return Section("Replay buffer", _plot("buffer", caption, plots.buffer, data))


def _cost(data: RunData) -> Section:
    section = Section("Time and tokens", stage_table(data))
    if section.blocks:
        section.blocks += _plot("time", "Wall time of each part.", plots.time_parts, data)
    section.blocks += token_table(data)
    return section


def _episodes(data: RunData) -> Section:
    """The newest dreams of the policy, each beside a real episode: of the same task where there is one."""
    section = Section("Episodes, dreamed and real")
    newest = sorted(data.episodes, key=lambda e: -e["iteration"])
    dreams = [e for e in newest if e["world"] == "dream"]
    real = sorted((e for e in newest if e["world"] == "real"), key=lambda e: e["source"] != "policy")
    tasks = {e["task_id"] for e in real}
    dreams.sort(key=lambda e: e["task_id"] not in tasks)
    for won in (True, False):
        dream = next((e for e in dreams if e["success"] is won), None)
        beside = next((e for e in real if dream and e["task_id"] == dream["task_id"]), None)
        beside = beside or next((e for e in real if e["success"] is won), None)
        if dream and beside:
            section.blocks.append(Pair(_episode(dream), _episode(beside)))
    return section


def _episode(row: dict[str, Any]) -> tuple[str, str]:
    where = "Dream" if row["world"] == "dream" else "Real environment"
    when = f", iteration {row['iteration']}" if row["iteration"] >= 0 else ""
    title = f"{where} · {row['source']}{when} · {'won' if row['success'] else 'not won'}"
    lines = [row["instruction"], "", row["steps"][0]["state"]]
    for step in row["steps"]:
        reward = f"   [reward {step['reward']:g}]" if step["reward"] else ""
        thought = [f"({step['thought']})"] if step["thought"] else []
        lines += [
            "",
            *thought,
            f"> {step['answer'] if step['malformed'] else step['action']}",
            step["next_state"] + reward,
        ]
    return title, "\n".join(lines)


def _config(data: RunData) -> Section:
    return Section("Configuration", [Listing("config.yaml", data.config, "yaml")])


def _plot(name: str, caption: str, draw: Callable[[RunData], Figure | None], data: RunData) -> list[Block]:
    picture = plots.render(draw, data)
    return [Plot(name, caption, picture)] if picture else []
