"""The report of a run in Markdown: right figures, nothing unescaped, and no section without data."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dreamgym.config import RunConfig
from dreamgym.config.loading import load_config
from dreamgym.errors import DataError
from dreamgym.report.measures import DEMONSTRATIONS
from dreamgym.report.page import write_markdown
from dreamgym.report.rundata import read_run
from dreamgym.runs.folder import run_folder, write_json
from dreamgym.runs.log import RunLog
from dreamgym.schema import write_parquet
from dreamgym.telemetry.stats import newcombe_paired, wilson
from dreamgym.types import Task, Trajectory, Transition
from dreamgym.view.curves import panels

ITERATIONS = 40
GAMES = 300
KINDS = ("prompt", "cached_prompt", "generated")
NASTY = "<script>alert('x')</script> & | `code` *star*"


def _stages(run_dir: Path) -> None:
    rows: list[tuple[str, float, int, dict[str, float], dict[str, Any]]] = [
        ("collect", 41.2, 0, {}, {"tasks": 600, "trajectories": 2400, "left out": 3}),
        ("annotate", 6.3, 0, {}, {"transitions": 31_204}),
        ("sft", 312.8, 2_900_000, {"world": 240.5, "policy": 61.0, "demos": 11.3}, {"world loss": 0.1312}),
        ("train", 402.0, 1_841_000, {"rollout": 231.0, "learner": 88.0, "sync": 4.1, "other": 78.9}, {}),
        ("eval", 37.5, 88_000, {}, {"success": 0.583}),
    ]  # fmt: skip
    clock = 0.0
    for name, seconds, tokens, parts, summary in rows:
        minute, second = divmod(clock, 60)
        record = {
            "stage": name, "fingerprint": "0" * 16, "settings": {}, "upstream": [], "ended": "",
            "started": f"2026-03-01T09:{int(minute):02d}:{second:06.3f}+00:00", "seconds": seconds,
            "tokens": tokens, "peak_gib": 4 + seconds / 200, "parts": parts, "summary": summary,
        }  # fmt: skip
        write_json(run_dir / "stages" / f"{name}.json", record)
        clock += seconds


def _fidelity(rng: random.Random) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, level in {"heldout": 0.96, "train": 0.97, "policy": 0.82, "invalid": 0.9}.items():
        noise = rng.gauss(0, 0.012)
        for metric in ("state_exact", "done_precision", "reward_precision", "done_recall", "reward_recall"):
            values[f"fidelity/{name}/{metric}"] = level + noise - 0.05 * metric.endswith("recall")
        for metric in ("state_f1", "outcome_accuracy"):
            values[f"fidelity/{name}/{metric}"] = (1 + level + noise) / 2
        values[f"fidelity/{name}/n"] = 640
        for metric in DEMONSTRATIONS if name in ("heldout", "train") else ():
            values[f"fidelity/{name}/{metric}"] = 0.42 if metric == "demo_shown" else 0.75
    return values


def _iteration(i: int, rng: random.Random) -> dict[str, float]:
    entropy = 0.35 * math.exp(-i / 25) + 0.05
    return {
        "dream/success": 0.41 + 0.34 * (1 - math.exp(-i / 10)) + rng.gauss(0, 0.035),
        "dream/reward": 0.6,
        "dream/env_failed": rng.randrange(4),
        "rollout/tokens": 9000 - 40 * i,
        "rollout/entropy": entropy,
        "learner/entropy": entropy + 0.002,
        "learner/loss": rng.gauss(0, 0.02),
        "learner/kl": 0.001 * i,
        "learner/grad_norm": 0.4 + rng.random() * 0.2,
        "learner/gap_mean": 0.002 + rng.random() * 0.001,
        "learner/gap_p999": 0.02 + rng.random() * 0.01,
        "learner/gap_max": 0.06 + rng.random() * 0.04,
        "learner/clip_frac": 0.01 + rng.random() * 0.01,
        "learner/real_transitions": 0,
        "curriculum/value_mean": 0.16 * math.exp(-i / 60) + rng.gauss(0, 0.008),
        "curriculum/generated_share": min(0.25, 0.02 * i),
        "curriculum/admitted": rng.randrange(5),
        "curriculum/rejected_duplicate": rng.randrange(3),
        "curriculum/rejected_malformed": rng.randrange(2),
        "curriculum/rejected_infeasible": rng.randrange(2),
        "replay/real": 31_204,
        "replay/dream": 310 * i,
        "replay/refused_duplicate": 41 * i,
        "replay/refused_inconsistent": 7 * i,
    }


def _metrics(run_dir: Path, rng: random.Random) -> None:
    with RunLog(run_dir / "train" / "metrics.jsonl") as log:
        for i in range(ITERATIONS):
            if i % 5 == 0:
                won = round(64 * (0.37 + 0.22 * (1 - math.exp(-i / 14))) + rng.gauss(0, 2))
                span = dict(zip(("real/low", "real/high"), wilson(won, 64), strict=True))
                level = {
                    "real/success": won / 64,
                    "real/transitions": 640 * (i // 5 + 1),
                    **({"again/wins": 40.0, "again/kept": 0.75, "again/obeyed": 0.2} if i else {}),
                    "dream/dev_success": won / 64 + 0.1,
                }
                engines = {f"{who}/{kind}_tokens": 1000 * (i % 20) for who in ("world", "policy") for kind in KINDS}
                fidelity = {k: v for k, v in _fidelity(rng).items() if i == 0 or "/policy/" in k}
                log.write("eval", i, {**level, **span, **fidelity, **engines})
            log.write("iteration", i, _iteration(i, rng))


def _finals(run_dir: Path, rng: random.Random) -> dict[str, list[int]]:
    played: dict[str, list[int]] = {}
    base = [int(rng.random() < 0.37) for _ in range(GAMES)]
    played["warm_start"] = base
    played["policy"] = [int(rng.random() < (0.85 if b else 0.42)) for b in base]
    played["random"] = [int(rng.random() < 0.03) for _ in base]
    played["expert"] = [1] * GAMES
    for who, results in played.items():
        order = list(range(GAMES))
        rng.shuffle(order)  # games end in any order
        record = {
            "who": who,
            "fold": "test",
            "games": GAMES,
            "successes": sum(results),
            "success": sum(results) / GAMES,
            **({"reward": 0.4375} if who == "policy" else {}),
            "env_failed": 0,
            "seconds": 18.0,
            "results": [results[g] for g in order],
            "game_ids": [f"g{g}" for g in order],
        }
        write_json(run_dir / "eval" / f"{who}.json", record)
    return played


def _episodes(run_dir: Path) -> None:
    task = Task("t1", "mapreader", "fetch the coin from the cellar and bring it to the box in the kitchen")
    hall = "you are in the hall; exits: south east"
    steps = [
        Transition("you are in the kitchen; exits: north", "go north", hall, 0, False),
        Transition(hall, f"say {NASTY}", "that is not possible here", 0, False),
        Transition("that is not possible here", "take coin", "you carry the coin", 1, True),
    ]
    dream = Trajectory("d", task, "policy", "dream", steps, success=True, iteration=39)
    real = Trajectory("r", task, "policy", "real", steps[:2], truncated=True, iteration=35)
    write_parquet(run_dir / "train" / "trajectories" / "00039.parquet", [dream])
    write_parquet(run_dir / "train" / "real" / "00035.parquet", [real])


def make_run(out: Path) -> tuple[RunConfig, dict[str, list[int]]]:
    """A run folder as a finished run leaves it, with made-up figures."""
    rng = random.Random(7)
    config = load_config(None, [f"out={out}", "name=quickstart", f"world.system_prompt={NASTY}"])
    with run_folder(config) as run_dir:
        _stages(run_dir)
        _metrics(run_dir, rng)
        played = _finals(run_dir, rng)
        _episodes(run_dir)
    return config, played


class _Page(NamedTuple):
    """A report in Markdown as its reader sees it."""

    headings: list[str]
    text: str


def _page(path: Path) -> _Page:
    text = path.read_text()
    return _Page(re.findall("^## (.*)$", text, re.M), re.sub(r"\\(.)", r"\1", text))


def report(run_dir: Path) -> _Page:
    write_markdown(run_dir)
    return _page(run_dir / "report.md")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    config, played = make_run(tmp_path_factory.mktemp("runs"))
    write_markdown(config.run_dir)
    return config.run_dir, played


def test_the_headline_is_what_the_games_say(finished: tuple[Path, dict[str, list[int]]]) -> None:
    run_dir, played = finished
    text = _page(run_dir / "report.md").text
    difference = newcombe_paired(played["policy"], played["warm_start"])
    assert f"{sum(played['warm_start']) / GAMES:.1%}" in text
    assert f"{sum(played['policy']) / GAMES:.1%}" in text
    assert f"{100 * difference.point:+.1f} points" in text
    assert f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f} · same games, paired" in text
    result = json.loads((run_dir / "report.json").read_text())
    assert result["gain_points"] == pytest.approx(100 * difference.point, abs=0.01)
    assert result["gain_ci95_low"] == pytest.approx(100 * difference.low, abs=0.01)
    assert result["success_dream"] == pytest.approx(sum(played["policy"]) / GAMES, abs=1e-4)
    assert result["real_transitions_during_rl"] == 0
    assert result["minutes"] == pytest.approx((41.2 + 6.3 + 312.8 + 402.0 + 37.5) / 60, abs=0.01)
    gaps = [json.loads(line).get("learner/gap_max", 0) for line in (run_dir / "train/metrics.jsonl").open()]
    assert result["max_logprob_gap_nats"] == max(gaps)
    assert "5,120 measured only" in text
    assert (
        "Of the last 40 dreams that were won, the same actions win 75% of the real games; 20% were won because" in text
    )
    assert "| dream, sampled | 30,000 |" in text  # two counters that began at 0, each up to 15,000


def test_pictures_lie_beside_it_and_no_text_is_markup(finished: tuple[Path, dict[str, list[int]]]) -> None:
    run_dir, _ = finished
    text = (run_dir / "report.md").read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert len(pictures) == 7
    assert "| seed data of train tasks | 640 | 42.0% | 75.0% |" in text
    assert [p for p in pictures if not (run_dir / p).exists()] == []
    for picture in pictures:
        assert (run_dir / picture).read_bytes().startswith(b"\x89PNG")
    fenced = re.findall(r"^(`{3,})\w*\n(.*?)\n\1$", text, re.M | re.S)
    assert sum(NASTY in inside for _, inside in fenced) >= 3
    rest = re.sub(r"^(`{3,})\w*\n(.*?)\n\1$", "", text, flags=re.M | re.S)
    assert "<script" not in rest.replace("\\<", "")


def test_the_mean_reward_stands_beside_the_games_won(finished: tuple[Path, dict[str, list[int]]]) -> None:
    """In the table of evaluations, where it was measured, and as a curve."""
    run_dir, _ = finished
    header, _, *rows = [line for line in (run_dir / "report.md").read_text().splitlines() if line.startswith("|")][:6]
    at = [cell.strip() for cell in header.split("|")].index("mean reward")
    assert sorted(row.split("|")[at].strip() for row in rows) == ["0.438", "–", "–", "–"]
    (panel,) = [p for p in panels(read_run(run_dir)) if p.title == "Mean reward"]
    assert [(line["label"], set(line["y"])) for line in panel.lines] == [("learning", {0.6})]


def test_a_dream_that_is_too_kind_is_called_so(tmp_path: Path) -> None:
    for dream, words in ((0.95, True), (0.45, False)):
        config = load_config(None, [f"out={tmp_path}", f"name=kind{words}"])
        with run_folder(config) as run_dir, RunLog(run_dir / "train" / "metrics.jsonl") as log:
            log.write("iteration", 0, {"dream/success": dream})
            log.write("eval", 0, {"real/success": 0.4})
        assert ("too kind, and what is learned" in report(run_dir).text) is words


def test_a_run_that_learned_on_real_rollouts_speaks_of_no_dream(tmp_path: Path) -> None:
    config = load_config(None, [f"out={tmp_path}", "train.world=real"])
    with run_folder(config) as run_dir, RunLog(run_dir / "train" / "metrics.jsonl") as log:
        log.write("iteration", 0, {"dream/success": 0.9})
        log.write("eval", 0, {"real/success": 0.4})
        _finals(run_dir, random.Random(7))
    page = report(run_dir)
    assert "After RL on real rollouts" in page.text and "policy after RL on real rollouts" in page.text
    assert "Success in the real environment" in page.headings
    assert "dream" not in page.text.replace("dreamgym", "").partition("Configuration")[0].lower()


def test_a_long_run_still_shows_a_real_episode_beside_its_newest_dreams(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    task = Task("t", "mapreader", "fetch the coin")
    step = [Transition("here", "take coin", "taken", 1.0, True)]
    write_parquet(tmp_path / "data" / "annotated.parquet", [Trajectory("r", task, "expert", "real", step)])
    for k in range(40):
        dream = Trajectory(f"d{k}", task, "policy", "dream", step, success=True, iteration=k)
        write_parquet(tmp_path / "train" / "trajectories" / f"{k:05d}.parquet", [dream])
    found = read_run(tmp_path).episodes
    assert {(e["world"], e["source"]) for e in found} == {("dream", "policy"), ("real", "expert")}
    assert max(e["iteration"] for e in found) == 39


def test_a_run_that_is_not_finished_is_reported_as_far_as_it_went(tmp_path: Path) -> None:
    config = load_config(None, [f"out={tmp_path}"])
    with run_folder(config) as run_dir:
        assert report(run_dir).headings == ["Configuration"]
        _stages(run_dir)
        assert report(run_dir).headings == ["Time and tokens", "Configuration"]
        with RunLog(run_dir / "train" / "metrics.jsonl") as log:
            log.write("iteration", 0, {"dream/success": 0.4, "learner/loss": None})
        assert report(run_dir).headings == [
            "Success, dreamed and real",
            "Time and tokens",
            "Configuration",
        ]
    result = json.loads((run_dir / "report.json").read_text())
    assert result["gain_points"] is None


def test_a_broken_file_of_the_run_is_named(tmp_path: Path) -> None:
    config, _ = make_run(tmp_path)
    (config.run_dir / "eval" / "policy.json").write_text("{")
    with pytest.raises(DataError, match=r"eval/policy\.json: not the result of an evaluation"):
        write_markdown(config.run_dir)
    with pytest.raises(DataError, match="no run is here"):
        write_markdown(tmp_path / "nothing")
