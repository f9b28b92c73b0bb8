"""One page on a run: what it reached, whether its dream can be trusted, and where the time went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dreamgym.report import plots
from dreamgym.report.render import Block, Cards, Listing, Pair, Plot, Section, Table, Text, to_html, to_markdown
from dreamgym.report.rundata import RunData, busy_seconds, gain, headline, interval, read_run, real_transitions
from dreamgym.runs.folder import write_json, write_text
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import shown
from dreamgym.telemetry.metrics import MALFORMED, UNREADABLE
from dreamgym.telemetry.stats import Interval

PLOT_FOLDER = "report-plots"
ALARM_POINTS = 15
PLAYERS = {
    "policy": "policy after the dream",
    "policy_real": "after the dream and real rollouts",
    "dpo": "its warm start after DPO",
    "warm_start": "its warm start",
    "expert": "expert",
    "random": "random",
}


def write_report(run_dir: Path) -> Path:
    """Write report.html, report.md with its pictures, and report.json (the headline) into a run folder.

    Returns the path of the page.

    Raises:
        DataError: there is no run, or a file in it is broken.
    """
    data = read_run(run_dir)
    title, subtitle, sections = _title(data), _subtitle(data), build(data)
    for block in (b for s in sections for b in s.blocks if isinstance(b, Plot)):
        path = run_dir / PLOT_FOLDER / f"{block.name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(block.light)
    write_text(run_dir / "report.md", to_markdown(title, subtitle, sections, PLOT_FOLDER))
    write_json(run_dir / "report.json", headline(data))
    write_text(run_dir / "report.html", to_html(title, subtitle, sections))
    return run_dir / "report.html"


def build(data: RunData) -> list[Section]:
    """The sections for which there is data, in the order of the page."""
    makers = (_result, _success, _trust, _learning, _curriculum, _buffer, _cost, _episodes, _config)
    return [section for maker in makers if (section := maker(data)).blocks]


def _title(data: RunData) -> str:
    return f"dreamgym · {data.run_dir.name}"


def _subtitle(data: RunData) -> str:
    words = [f"environment {data.settings['env']['name']}", f"seed {data.settings['seed']}"]
    if data.stages:
        words += [f"begun {data.stages[0]['started'][:16].replace('T', ' ')} UTC", duration(busy_seconds(data.stages))]
        words.append(f"peak memory {max(s['peak_gib'] for s in data.stages):.1f} GiB")
    return " · ".join(words)


def _result(data: RunData) -> Section:
    section = Section(f"Result in the real environment, {data.fold} fold")
    learned_in = "After the dream" if data.dreamed else "After RL on real rollouts"
    labels = {"warm_start": "Warm start", "policy": learned_in, "policy_real": "Then in the real environment"}
    finals = {who: data.finals[who, data.fold] for who in labels if (who, data.fold) in data.finals}
    before, after = finals.get("warm_start"), finals.get("policy")
    cards = [
        (labels[who], f"{interval(final).point:.1%}", f"95% interval {_span(interval(final))} · {final['games']} games")
        for who, final in finals.items()
    ]
    if before and after:
        difference, paired = gain(before, after)
        how = "same games, paired" if paired else "independent games"
        low, high = 100 * difference.low, 100 * difference.high
        cards.append(
            ("Gain", f"{100 * difference.point:+.1f} points", f"95% interval {low:+.1f} to {high:+.1f} · {how}")
        )
    learned, measured = data.total("learner/real_transitions"), data.last("real/transitions")
    if learned is not None:
        detail = f"{measured:,.0f} measured only" if measured else ""
        cards.append(("Real transitions in RL", f"{learned:,.0f}", detail))
    if cards:
        section.blocks.append(Cards(cards))
    order = list(PLAYERS)
    everyone = sorted(
        data.finals.values(), key=lambda r: (r["fold"], order.index(r["who"]) if r["who"] in order else 9)
    )
    rows = [
        [_player(data, r["who"]), r["fold"], f"{interval(r).point:.1%}", _span(interval(r)),
         f"{r['successes']:,} of {r['games']:,}", f"{r['env_failed']:,}", f"{real_transitions(data, r['who']):,}",
         duration(r["seconds"])]
        for r in everyone
    ]  # fmt: skip
    if rows:
        header = ["player", "fold", "games won", "95% interval", "won", "left out", "real transitions in RL", "time"]
        section.blocks.append(Table(header, rows, left=(0, 1)))
    return section


def _player(data: RunData, who: str) -> str:
    return "policy after RL on real rollouts" if who == "policy" and not data.dreamed else PLAYERS.get(who, who)


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
    section.blocks += _unreadable(data)
    points = plots.calibration_points(data)
    if points:
        iteration, dream, real = points[-1]
        gap = 100 * (dream - real)
        verdict = f"At iteration {iteration} the policy won {dream:.0%} of its dreams and {real:.0%} of real games"
        if gap > ALARM_POINTS:
            verdict += f": the dream is {gap:.0f} points too kind, and what is learned in it need not hold outside"
        section.blocks.append(Text(verdict + ".", alarm=gap > ALARM_POINTS))
    section.blocks += _again(data) + _fidelity_table(data)
    section.blocks += _plot("fidelity", "Fidelity on real transitions, while learning.", plots.fidelity, data)
    caption = "Success of the same policy, dreamed and real; below the diagonal the dream is too kind."
    section.blocks += _plot("calibration", caption, plots.calibration, data)
    return section


def _unreadable(data: RunData) -> list[Block]:
    """How many of the dreams could not be read, where some could not."""
    failed, episodes = data.total("dream/env_failed"), data.total("rollout/episodes")
    if not failed or not episodes:
        return []
    share = f"{failed:,.0f} of {episodes:,.0f} dreamed episodes ({failed / episodes:.1%})"
    told = f"{share} could not be read, and taught nothing"
    remedy = "; tune the experience model longer (world.sft.tokens), or take a larger one (world.model)"
    alarm = failed > UNREADABLE * episodes
    return [Text(told + (remedy if alarm else "") + ".", alarm=alarm)]


def _again(data: RunData) -> list[Block]:
    """How the won dreams end where their actions are taken for real."""
    wins, kept, obeyed = (data.last(f"again/{key}") for key in ("wins", "kept", "obeyed"))
    if not wins or kept is None or obeyed is None:
        return []
    told = (
        f"Of the last {wins:.0f} dreams that were won, the same actions win {kept:.0%} of the real games; {obeyed:.0%} "
        "were won because the dream let happen what the real environment refuses, the others where it went another way."
    )
    return [Text(told, alarm=100 * obeyed > ALARM_POINTS)]


def _fidelity_table(data: RunData) -> list[Block]:
    """The last measurement of every set."""
    rows = []
    for name in plots.fidelity_sets(data):
        last = [data.last(f"fidelity/{name}/{metric}") for metric in plots.FIDELITY]
        cells = ["–" if value is None else f"{value:.1%}" for value in last]
        rows.append([plots.SETS.get(name, name), _count(data.last(f"fidelity/{name}/n")), *cells])
    if not rows:
        return []
    intro = "What the dream answers to real states and actions that it never saw, held against what really followed."
    return [
        Text(intro),
        Table(["real transitions", "number", *(t[0].lower() + t[1:] for t in plots.FIDELITY.values())], rows),
    ]


def _learning(data: RunData) -> Section:
    caption = "The learner, an iteration a point. Gaps are |engine − learner| logprobs of the sampled tokens."
    return Section("Learning", [*_malformed(data), *_plot("learning", caption, plots.learning, data)])


def _malformed(data: RunData) -> list[Block]:
    """How many of the policy's answers were no action by the end, where some were not, and of which kinds."""
    share = data.last("rollout/malformed")
    if not share:
        return []
    named = {key.removeprefix("rollout/malformed_").replace("_", " "): key for key in data.keys("rollout/malformed_")}
    kinds = ", ".join(f"{name} {data.total(key):,.0f}" for name, key in sorted(named.items()))
    told = f"Of the policy's last answers {share:.1%} were no action, and the world stood still (in all: {kinds})"
    remedy = "; see policy.format, and policy.sampling.max_tokens where they are unfinished"
    return [Text(told + (remedy if share >= MALFORMED else "") + ".", alarm=share >= MALFORMED)]


def _curriculum(data: RunData) -> Section:
    caption = "V is the variance of the return within a task's group: high where the policy is half good."
    return Section("Curriculum", _plot("curriculum", caption, plots.curriculum, data))


def _buffer(data: RunData) -> Section:
    caption = "The replay buffer by the world its transitions come from, and why the write gate refused others."
    return Section("Replay buffer", _plot("buffer", caption, plots.buffer, data))


def _cost(data: RunData) -> Section:
    section = Section("Time and tokens")
    total = busy_seconds(data.stages)
    rows = [
        [s["stage"], duration(s["seconds"]), f"{s['seconds'] / total:.0%}" if total else "–", _count(s["tokens"]),
         f"{s['tokens'] / s['seconds']:,.0f}" if s["tokens"] and s["seconds"] else "–", f"{s['peak_gib']:.1f}",
         ", ".join(f"{key} {shown(value)}" for key, value in s["summary"].items())]
        for s in data.stages
    ]  # fmt: skip
    if rows:
        header = ["stage", "time", "share", "tokens", "tokens/s", "peak GiB", "summary"]
        section.blocks.append(Table(header, rows, left=(0, 6)))
        section.blocks += _plot("time", "Wall time of each part.", plots.time_parts, data)
    kinds = {"prompt": "prompt_tokens", "of it from the cache": "cached_prompt_tokens", "sampled": "generated_tokens"}
    tokens = [
        [f"{label}, {kind}", _count(data.counted(f"{who}/{key}"))]
        for who, label in (("policy", "policy"), ("world", "dream"))
        for kind, key in kinds.items()
    ]
    if any(count != "–" for _, count in tokens):
        section.blocks.append(Table(["tokens in the RL loop", "number"], tokens))
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


def _plot(name: str, caption: str, draw: Callable[[RunData, plots.Theme], Figure | None], data: RunData) -> list[Block]:
    light = plots.render(draw, data, plots.LIGHT)
    dark = plots.render(draw, data, plots.DARK)
    return [Plot(name, caption, light, dark)] if light and dark else []


def _span(value: Interval) -> str:
    return f"{100 * value.low:.1f}–{100 * value.high:.1f}%"


def _count(number: float | None) -> str:
    return f"{number:,.0f}" if number else "–"
