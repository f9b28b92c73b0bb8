"""What is wrong with a run now, or was, in words: faults, stalls, restarts, gaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from dreamgym.report.findings import again, kindness, malformed, unreadable
from dreamgym.report.render import Text
from dreamgym.report.rundata import RunData
from dreamgym.runs.ledger import add_up
from dreamgym.runs.log import Record
from dreamgym.telemetry.clock import duration
from dreamgym.view.activity import Activity

STALL_S, STALL_FACTOR = 120.0, 4.0
"""A run stalls that wrote nothing for so long, and for that many times its usual iteration."""
FLEET = {
    "retried": "attempts at an episode failed and were made again",
    "late": "attempts met train.episode_timeout_s",
    "replayed": "episodes were played again because their actor died",
    "restarts": "times a dead rollout actor came back",
}


def remarks(data: RunData, ledger: Sequence[Record], now: Activity) -> list[Text]:
    """What a person should know, alarms first; empty where all is well."""
    found = [*_standing(data, now), *_fleet(data), *_book(ledger, now), *_gaps(data)]
    found += [b for block in (unreadable, kindness, again, malformed) for b in block(data) if isinstance(b, Text)]
    return sorted(found, key=lambda text: not text.alarm)


def iteration_seconds(data: RunData) -> list[tuple[int, float]]:
    """(iteration, seconds) of the loop's time between each two iterations, evaluations and all."""
    spent = [
        (record["iteration"], sum(value for key, value in record.items() if key.startswith("time/") and value))
        for record in data.of("iteration")
    ]
    return [(at, later - sooner) for (_, sooner), (at, later) in pairwise([(0, 0.0), *spent]) if later >= sooner]


def _standing(data: RunData, now: Activity) -> list[Text]:
    if now.state == "stopped":
        begun = " and ".join(now.begun)
        told = f"Nobody works on it: {begun} was begun and is not finished, {duration(now.idle_s)} after the last word"
        return [Text(f"{told}. The same command goes on from there.", alarm=True)]
    if now.state != "running" or "train" not in now.begun:
        return []
    usual = median([seconds for _, seconds in iteration_seconds(data)] or [0.0])
    if usual and now.idle_s > max(STALL_S, STALL_FACTOR * usual):
        told = f"Nothing was written for {duration(now.idle_s)}; an iteration takes {duration(usual)} as a rule"
        return [Text(f"{told}. It may have stalled.", alarm=True)]
    return []


def _fleet(data: RunData) -> list[Text]:
    """Faults that the fleet of rollout actors has mended."""
    counted = {words: data.counted(f"fleet/{name}") or 0 for name, words in FLEET.items()}
    told = [f"{count:,.0f} {words}" for words, count in counted.items() if count]
    ended = next((s["summary"]["ended_early"] for s in data.stages if "ended_early" in s["summary"]), "")
    early = [Text(f"Training ended early: {ended}.", alarm=True)] if ended else []
    return early + ([Text(f"So far {'; '.join(told)}.")] if told else [])


def _book(ledger: Sequence[Record], now: Activity) -> list[Text]:
    """What the ledger says went wrong; what is under way is not lost yet."""
    if not ledger:
        return []
    account = add_up(ledger)
    found = []
    if account.resumed:
        found.append(Text(f"The run went back to a checkpoint {_times(account.resumed)}."))
    if account.lost and now.state == "done":
        found.append(Text(f"{account.lost:,} episodes were started and taught nothing.", alarm=True))
    if account.trained_twice:
        found.append(Text(f"Weights have seen {account.trained_twice:,} episodes twice.", alarm=True))
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _gaps(data: RunData) -> list[Text]:
    """Engine and learner apart, and iterations without an update."""
    limit = data.settings.get("learner", {}).get("max_logprob_gap")
    gap, skipped = data.last("learner/gap_mean"), data.total("learner/skipped")
    found = []
    if gap is not None and limit and gap > limit / 2:
        found.append(Text(f"Engine and learner differ by {gap:.3g} nats a token; {limit:g} ends the run.", alarm=True))
    if skipped:
        found.append(Text(f"{skipped:,.0f} iterations had nothing to learn from: all episodes of a group ended alike."))
    return found
