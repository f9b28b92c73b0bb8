"""What a run came to in words, figures and tables: blocks that the report and the live page show."""

from __future__ import annotations

from dreamgym.report.measures import DEMONSTRATIONS, FIDELITY, SETS, calibration_points, fidelity_sets
from dreamgym.report.render import Block, Cards, Section, Table, Text
from dreamgym.report.rundata import RunData, busy_seconds, gain, interval, real_transitions
from dreamgym.telemetry.clock import duration
from dreamgym.telemetry.console import shown
from dreamgym.telemetry.metrics import MALFORMED, UNREADABLE
from dreamgym.telemetry.stats import Interval

ALARM_POINTS = 15
PLAYERS = {
    "policy": "policy after the dream",
    "policy_real": "after the dream and real rollouts",
    "dpo": "its warm start after DPO",
    "warm_start": "its warm start",
    "expert": "expert",
    "random": "random",
}


def result(data: RunData) -> Section:
    """Every evaluation with its interval, and what the dream has gained."""
    section = Section(f"Result in the real environment, {data.fold} fold")
    learned_in = "After the dream" if data.dreamed else "After RL on real rollouts"
    labels = {"warm_start": "Warm start", "policy": learned_in, "policy_real": "Then in the real environment"}
    finals = {who: data.finals[who, data.fold] for who in labels if (who, data.fold) in data.finals}
    before, after = finals.get("warm_start"), finals.get("policy")
    cards = [
        (labels[who], f"{interval(final).point:.1%}", f"95% interval {span(interval(final))} · {final['games']} games")
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
        [_player(data, r["who"]), r["fold"], f"{interval(r).point:.1%}", span(interval(r)),
         f"{r['reward']:.3f}" if "reward" in r else "–",
         f"{r['successes']:,} of {r['games']:,}", f"{r['env_failed']:,}", f"{real_transitions(data, r['who']):,}",
         duration(r["seconds"])]
        for r in everyone
    ]  # fmt: skip
    if rows:
        header = ["player", "fold", "games won", "95% interval", "mean reward", "won", "left out",
                  "real transitions in RL", "time"]  # fmt: skip
        section.blocks.append(Table(header, rows, left=(0, 1)))
    return section


def _player(data: RunData, who: str) -> str:
    return "policy after RL on real rollouts" if who == "policy" and not data.dreamed else PLAYERS.get(who, who)


def kindness(data: RunData) -> list[Block]:
    """How much more the policy won in its last dreams than in real games."""
    points = calibration_points(data)
    if not points:
        return []
    iteration, dream, real = points[-1]
    gap = 100 * (dream - real)
    verdict = f"At iteration {iteration} the policy won {dream:.0%} of its dreams and {real:.0%} of real games"
    if gap > ALARM_POINTS:
        verdict += f": the dream is {gap:.0f} points too kind, and what is learned in it need not hold outside"
    return [Text(verdict + ".", alarm=gap > ALARM_POINTS)]


def unreadable(data: RunData) -> list[Block]:
    """How many of the dreams could not be read, where some could not."""
    failed, episodes = data.total("dream/env_failed"), data.total("rollout/episodes")
    if not failed or not episodes:
        return []
    share = f"{failed:,.0f} of {episodes:,.0f} dreamed episodes ({failed / episodes:.1%})"
    told = f"{share} could not be read, and taught nothing"
    remedy = "; tune the experience model longer (world.sft.tokens), or take a larger one (world.model)"
    alarm = failed > UNREADABLE * episodes
    return [Text(told + (remedy if alarm else "") + ".", alarm=alarm)]


def again(data: RunData) -> list[Block]:
    """How the won dreams end where their actions are taken for real."""
    wins, kept, obeyed = (data.last(f"again/{key}") for key in ("wins", "kept", "obeyed"))
    if not wins or kept is None or obeyed is None:
        return []
    told = (
        f"Of the last {wins:.0f} dreams that were won, the same actions win {kept:.0%} of the real games; {obeyed:.0%} "
        "were won because the dream let happen what the real environment refuses, the others where it went another way."
    )
    return [Text(told, alarm=100 * obeyed > ALARM_POINTS)]


def fidelity_table(data: RunData) -> list[Block]:
    """The last measurement of every set."""
    if not (sets := fidelity_sets(data)):
        return []
    intro = (
        "What the dream answers to real states and actions, held against what really followed. It was tuned on the "
        "train tasks alone; along their episodes it is shown none of their own steps."
    )
    blocks: list[Block] = [Text(intro), _by_set(data, sets, FIDELITY)]
    if any(data.last(f"fidelity/{name}/demo_shown") for name in sets):
        blocks += [Text("What the demonstrations of these steps were worth."), _by_set(data, sets, DEMONSTRATIONS)]
    return blocks


def _by_set(data: RunData, sets: list[str], metrics: dict[str, str]) -> Table:
    rows = []
    for name in sets:
        last = [data.last(f"fidelity/{name}/{metric}") for metric in metrics]
        cells = ["–" if value is None else f"{value:.1%}" for value in last]
        rows.append([SETS.get(name, name), count(data.last(f"fidelity/{name}/n")), *cells])
    return Table(["real transitions", "number", *(t[0].lower() + t[1:] for t in metrics.values())], rows)


def calibration_table(data: RunData) -> list[Block]:
    """What the dream promised of the same games at each evaluation, and how many points that was too much."""
    rows = [
        [f"{iteration:,}", f"{dream:.1%}", f"{real:.1%}", f"{100 * (dream - real):+.1f}"]
        for iteration, dream, real in calibration_points(data)
    ]
    header = ["iteration", "won in the dream", "won for real", "points too kind"]
    return [Table(header, rows)] if rows and data.dreamed else []


def malformed(data: RunData) -> list[Block]:
    """How many of the policy's answers were no action by the end, where some were not, and of which kinds."""
    share = data.last("rollout/malformed")
    if not share:
        return []
    named = {key.removeprefix("rollout/malformed_").replace("_", " "): key for key in data.keys("rollout/malformed_")}
    kinds = ", ".join(f"{name} {data.total(key):,.0f}" for name, key in sorted(named.items()))
    told = f"Of the policy's last answers {share:.1%} were no action, and the world stood still (in all: {kinds})"
    remedy = "; see policy.format, and policy.sampling.max_tokens where they are unfinished"
    return [Text(told + (remedy if share >= MALFORMED else "") + ".", alarm=share >= MALFORMED)]


def stage_table(data: RunData) -> list[Block]:
    """What each finished stage took."""
    total = busy_seconds(data.stages)
    rows = [
        [s["stage"], duration(s["seconds"]), f"{s['seconds'] / total:.0%}" if total else "–", count(s["tokens"]),
         f"{s['tokens'] / s['seconds']:,.0f}" if s["tokens"] and s["seconds"] else "–", f"{s['peak_gib']:.1f}",
         ", ".join(f"{key} {shown(value)}" for key, value in s["summary"].items())]
        for s in data.stages
    ]  # fmt: skip
    header = ["stage", "time", "share", "tokens", "tokens/s", "peak GiB", "summary"]
    return [Table(header, rows, left=(0, 6))] if rows else []


def token_table(data: RunData) -> list[Block]:
    """The tokens of the RL loop, by who read or wrote them."""
    kinds = {"prompt": "prompt_tokens", "of it from the cache": "cached_prompt_tokens", "sampled": "generated_tokens"}
    tokens = [
        [f"{label}, {kind}", count(data.counted(f"{who}/{key}"))]
        for who, label in (("policy", "policy"), ("world", "dream"))
        for kind, key in kinds.items()
    ]
    return [Table(["tokens in the RL loop", "number"], tokens)] if any(n != "–" for _, n in tokens) else []


def span(value: Interval) -> str:
    return f"{100 * value.low:.1f}–{100 * value.high:.1f}%"


def count(number: float | None) -> str:
    return f"{number:,.0f}" if number else "–"
