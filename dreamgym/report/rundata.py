"""What a run folder holds, read for the report: stages, metrics, evaluations, episodes; missing pieces are empty.

Most metrics stand for one iteration. `replay/...` and `real/transitions` are levels; `world/..._tokens` and
`policy/..._tokens` are counters, which begin at 0 again when a run goes on with new engines.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from dreamgym.errors import DataError
from dreamgym.runs.log import Record, parse_object, read_log
from dreamgym.runs.stage import read_stages
from dreamgym.schema import readable
from dreamgym.telemetry.stats import Interval, newcombe, newcombe_paired, wilson

EPISODE_FILES = 24
EPISODES_A_FILE = 256
EPISODE_COLUMNS = ["task_id", "instruction", "source", "world", "status", "success", "iteration", "steps"]


@dataclass
class RunData:
    """One run, finished or not.

    records   all lines of train/metrics.jsonl, oldest first
    finals    eval/*.json by (who, fold)
    episodes  rows of the newest trajectory files and of the collected data, as dictionaries
    """

    run_dir: Path
    config: str = ""
    stages: list[Record] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    finals: dict[tuple[str, str], Record] = field(default_factory=dict)
    episodes: list[Record] = field(default_factory=list)

    def of(self, kind: str) -> list[Record]:
        """The records of one kind: iteration or eval."""
        return [r for r in self.records if r.get("kind") == kind]

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations and values of one metric, where it is known."""
        found = [(r["iteration"], r[key]) for r in self.records if r.get(key) is not None]
        return [i for i, _ in found], [float(v) for _, v in found]

    def total(self, key: str) -> float | None:
        """The sum of a metric over all iterations; None where none has it."""
        found = self.series(key)[1]
        return sum(found) if found else None

    def last(self, key: str) -> float | None:
        """The newest value of a metric."""
        return next(iter(self.series(key)[1][-1:]), None)

    def counted(self, key: str) -> float | None:
        """What a counter has counted over all the times that it began at 0."""
        values = self.series(key)[1]
        grown = [new - old if new >= old else new for old, new in pairwise([0.0, *values])]
        return sum(grown) if grown else None

    def keys(self, prefix: str) -> list[str]:
        """All metric names that begin with `prefix`, in the order in which they first came."""
        return list(dict.fromkeys(k for r in self.records for k in r if k.startswith(prefix)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """`config`, read."""
        return yaml.safe_load(self.config) or {}

    @property
    def dreamed(self) -> bool:
        """Whether the policy learned in the dream, and not on real rollouts alone."""
        return self.settings.get("train", {}).get("world") != "real"

    @property
    def fold(self) -> str:
        """The fold of the headline: test where it was played, else dev, else whichever was."""
        folds = [fold for _, fold in self.finals]
        return next((f for f in ("test", "dev", *folds) if f in folds), "")


def read_run(run_dir: Path) -> RunData:
    """Read what there is.

    Raises:
        DataError: there is no such folder, or a file in it is broken.
    """
    if not (run_dir / "config.yaml").exists():
        raise DataError(f"{run_dir}: no run is here; give the recipe, name and seed of a run that was started.")
    log = run_dir / "train" / "metrics.jsonl"
    return RunData(
        run_dir=run_dir,
        config=(run_dir / "config.yaml").read_text(encoding="utf-8"),
        stages=read_stages(run_dir),
        records=read_log(log) if log.exists() else [],
        finals=read_finals(sorted((run_dir / "eval").glob("*.json"))),
        episodes=_episodes(run_dir),
    )


def read_finals(files: Iterable[Path]) -> dict[tuple[str, str], Record]:
    """Results of evaluations by (who, fold); raises DataError where a file is none."""
    found: dict[tuple[str, str], Record] = {}
    for path in files:
        record = parse_object(path.read_bytes())
        if record is None or not {"who", "fold", "successes", "games"} <= record.keys():
            raise DataError(f"{path}: not the result of an evaluation; remove it and run `dreamgym eval`.")
        found[str(record["who"]), str(record["fold"])] = record
    return found


def _episodes(run_dir: Path) -> list[Record]:
    files = sorted(run_dir.rglob("*.parquet"), key=lambda p: (p.stat().st_mtime, p), reverse=True)
    collected = [path for path in files[EPISODE_FILES:] if path.parent.name == "data"]
    rows: list[Record] = []
    for path in files[:EPISODE_FILES] + collected:
        with readable(path):
            file = pq.ParquetFile(path)
            ours = set(EPISODE_COLUMNS) <= set(file.schema_arrow.names)
            if ours and b"dreamgym.schema" in (file.schema_arrow.metadata or {}) and file.num_row_groups:
                table = file.read_row_group(file.num_row_groups - 1, columns=EPISODE_COLUMNS)
                rows += table.slice(max(table.num_rows - EPISODES_A_FILE, 0)).to_pylist()
    return [r for r in rows if r["status"] == "ok" and r["steps"]]


def gain(before: Record, after: Record) -> tuple[Interval, bool]:
    """How much higher the success of `after` is, and whether the games could be paired by their ids."""
    old = dict(zip(before.get("game_ids", []), before.get("results", []), strict=True))
    new = dict(zip(after.get("game_ids", []), after.get("results", []), strict=True))
    shared = [game for game in new if game in old]
    if shared and len(shared) == len(new) == len(old):
        return newcombe_paired([new[g] for g in shared], [old[g] for g in shared]), True
    return newcombe(after["successes"], after["games"], before["successes"], before["games"]), False


def real_transitions(data: RunData, who: str) -> int:
    """How many real transitions a player learned from by RL."""
    stages = {"policy": ["train"], "policy_real": ["train", "real"]}.get(who, [])
    return sum(s["summary"].get("real_transitions_learned", 0) for s in data.stages if s["stage"] in stages)


def interval(record: Record) -> Interval:
    """Success of an evaluation with Wilson's 95% interval."""
    return Interval(record["successes"] / max(record["games"], 1), *wilson(record["successes"], record["games"]))


def busy_seconds(stages: Iterable[Record]) -> float:
    """Seconds in which at least one stage ran; stages side by side, or one in another, count once."""
    spans = sorted((datetime.fromisoformat(s["started"]).timestamp(), s["seconds"]) for s in stages)
    total, reached = 0.0, float("-inf")
    for begin, seconds in spans:
        end = begin + seconds
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total


def headline(data: RunData) -> dict[str, Any]:
    """The figures of a run by the names under which results are kept; None where a figure is not known.

    `gain_points` and its lower end are percentage points; gaps between engine and learner
    logprobs are in nats: of the worst token of the run, and of the worst iteration's 99.9% of tokens and mean.
    """
    before, after = (data.finals.get((who, data.fold)) for who in ("warm_start", "policy"))
    difference = gain(before, after)[0] if before and after else None
    gaps = data.series("learner/gap_max")[1]
    learned = data.total("learner/real_transitions")
    return {
        "minutes": round(busy_seconds(data.stages) / 60, 2) if data.stages else None,
        "peak_gib": max((s["peak_gib"] for s in data.stages), default=None),
        "success_warm_start": round(interval(before).point, 4) if before else None,
        "success_dream": round(interval(after).point, 4) if after else None,
        "gain_points": round(100 * difference.point, 2) if difference else None,
        "gain_ci95_low": round(100 * difference.low, 2) if difference else None,
        "real_transitions_during_rl": None if learned is None else int(learned),
        "max_logprob_gap_nats": max(gaps, default=None),
        "logprob_gap_p999_nats": max(data.series("learner/gap_p999")[1], default=None),
        "logprob_gap_mean_nats": max(data.series("learner/gap_mean")[1], default=None),
    }
