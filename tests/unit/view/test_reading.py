"""What the page reads of a run is what the files hold, whatever is asked and however they grow."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from dreamgym.api import Run
from dreamgym.errors import ConfigError, DataError
from dreamgym.runs.folder import hold
from dreamgym.runs.ledger import Ledger
from dreamgym.runs.log import RunLog
from dreamgym.types import Transition
from dreamgym.view.activity import activity
from dreamgym.view.growing import GrowingLog
from dreamgym.view.query import parse
from dreamgym.view.viewed import ViewedRun, find_runs
from tests.unit.view.runs import NASTY, add, generated, trajectory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = generated.write_run(tmp_path_factory.mktemp("runs"), "small", iterations=6, episodes=16, tasks=5)
    return found


@pytest.fixture(scope="module")
def everything(folder: Path) -> list[dict[str, Any]]:
    """All episodes by another way: the Python API's."""
    run = Run(folder)
    return [row for stage in ("collect", "train") for row in run.trajectories(stage).to_pylist()]


def ask(run: ViewedRun, **asked: str) -> list[str]:
    page = run.page(parse({"limit": "500", **asked}))
    assert page["matching"] == len(page["rows"])
    return [row["trajectory_id"] for row in page["rows"]]


@pytest.mark.parametrize(
    ("asked", "fits"),
    [
        ({}, lambda e: True),
        ({"world": "dream"}, lambda e: e["world"] == "dream"),
        ({"won": "yes"}, lambda e: e["success"]),
        ({"won": "no", "source": "random"}, lambda e: not e["success"] and e["source"] == "random"),
        ({"task": "task0002"}, lambda e: e["task_id"] == "task0002"),
        ({"iteration_from": "2", "iteration_to": "3"}, lambda e: 2 <= e["iteration"] <= 3),
        ({"steps_to": "4"}, lambda e: len(e["steps"]) <= 4),
        ({"learned": "yes"}, lambda e: e["iteration"] >= 0),
        ({"malformed": "yes"}, lambda e: False),
        ({"text": "TASK0003"}, lambda e: e["task_id"] == "task0003"),
        ({"text": "from the CELLAR"}, lambda e: "from the cellar" in e["instruction"]),
        ({"text": "leads to the attic", "deep": "yes"}, lambda e: "leads to the attic" in json.dumps(e["steps"])),
        ({"text": "you are in the hall", "deep": "yes", "world": "real"},
         lambda e: e["world"] == "real" and "you are in the hall" in json.dumps(e["steps"])),
    ],
)  # fmt: skip
def test_filters_and_search_find_what_a_plain_loop_finds(
    folder: Path, everything: list[dict[str, Any]], asked: dict[str, str], fits: Any
) -> None:
    run = ViewedRun("small", folder)
    while (page := run.page(parse(asked)))["search"]["scanned"] < page["search"]["files"]:
        pass
    assert sorted(ask(run, **asked)) == sorted(e["trajectory_id"] for e in everything if fits(e))


def test_pages_in_any_order_hold_every_episode_once(folder: Path, everything: list[dict[str, Any]]) -> None:
    run = ViewedRun("small", folder)
    for sort, order in (
        ("iteration", "down"),
        ("task_id", "up"),
        ("success", "down"),
        ("reward", "up"),
        ("steps", "up"),
    ):
        rows = []
        for offset in range(0, len(everything), 10):
            asked = {"sort": sort, "order": order, "offset": str(offset), "limit": "10"}
            rows += run.page(parse(asked))["rows"]
        assert sorted(r["trajectory_id"] for r in rows) == sorted(e["trajectory_id"] for e in everything)
        keys = [r[sort] for r in rows]
        assert keys == sorted(keys, reverse=order == "down"), sort


def test_steps_rewards_and_facets_are_those_of_the_episodes(folder: Path, everything: list[dict[str, Any]]) -> None:
    page = ViewedRun("small", folder).page(parse({"limit": "500"}))
    told = {e["trajectory_id"]: (len(e["steps"]), sum(s["reward"] for s in e["steps"])) for e in everything}
    assert {r["trajectory_id"]: (r["steps"], r["reward"]) for r in page["rows"]} == told
    assert page["facets"]["world"] == {"real": 15, "dream": 96}
    assert page["won"] == sum(e["success"] for e in everything)


@pytest.mark.parametrize(
    ("asked", "word"),
    [({"sort": "nothing"}, "sort='nothing'"), ({"won": "perhaps"}, "won='perhaps'"), ({"offset": "-1"}, "offset='-1'"),
     ({"steps_from": "many"}, "steps_from='many'")],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_in_a_sentence(asked: dict[str, str], word: str) -> None:
    with pytest.raises(DataError, match=word):
        parse(asked)


def test_a_run_that_grows_is_read_on(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "grows", iterations=2, episodes=4, tasks=2)
    run = ViewedRun("grows", folder)
    before, version = len(ask(run)), run.version()
    assert run.version() == version, "nothing was written"
    add(folder, 2, trajectory("one"))
    assert run.version() != version and len(ask(run)) == before + 1
    path = add(folder, 2, trajectory("one"), trajectory("two", success=False))
    assert len(ask(run)) == before + 2, "the file was replaced"
    assert set(ask(run, learned="yes")).isdisjoint({"one", "two"})
    ledger = Ledger(folder / "train")
    ledger.write("trained", 2, ["one"])
    assert "one" in ask(run, learned="yes")
    ledger.write("resumed", 1)
    ledger.close()
    assert "one" not in ask(run, learned="yes"), "the update was undone"
    path.unlink()
    assert len(ask(run)) == before


def test_a_file_that_cannot_be_read_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "torn", iterations=2, episodes=4, tasks=2)
    (folder / "train" / "trajectories" / "iteration-00001.parquet").write_bytes(b"PAR1 torn")
    page = ViewedRun("torn", folder).page(parse({"world": "dream"}))
    assert page["matching"] == 4
    (problem,) = page["problems"]
    assert "iteration-00001.parquet: not a readable Parquet file" in problem


def test_a_log_is_read_on_from_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = GrowingLog(path)
    assert log.records() == []
    rng, lines = random.Random(3), []
    for number in range(30):
        line = json.dumps({"kind": "iteration", "iteration": number})
        cut = rng.randrange(len(line))
        with path.open("a") as file:
            file.write(line[:cut])
            file.flush()
            assert [r["iteration"] for r in log.records()] == lines, "the torn last line waits"
            file.write(line[cut:] + "\n")
        lines.append(number)
        assert [r["iteration"] for r in log.records()] == lines
    with RunLog(path) as writer:
        writer.truncate_after(10)
        assert [r["iteration"] for r in log.records()] == list(range(11))
        writer.write("iteration", 99, {})
    assert [r["iteration"] for r in log.records()] == [*range(11), 99]
    path.write_text('{"iteration": 0}\nno json\n{"iteration": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a JSON object"):
        log.records()
    path.unlink()
    assert log.records() == []


def test_an_episode_lies_beside_the_one_that_took_its_actions_for_longest(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "pair", iterations=1, episodes=4, tasks=2)
    other = [Transition("here", "stay", "here", 0.0, True)]
    near = [
        Transition("here", "go", "there", 0.0, False),
        Transition("there", "look", "nothing to see", 1.0, True),
    ]
    add(folder, 1, trajectory("dream"), trajectory("far", "real", steps=other), trajectory("near", "real", steps=near))
    run = ViewedRun("pair", folder)
    found = run.episode("dream")
    assert found["beside"]["episode"]["trajectory_id"] == "near" and found["beside"]["shared"] == 2
    assert found["beside"]["difference"] == {"step": 1, "what": "state"}
    assert run.episode("far")["beside"]["difference"] == {"step": 0, "what": "action"}
    assert {s["trajectory_id"] for s in found["siblings"]} == {"dream", "far", "near"}
    assert all("truncated" in s for s in found["siblings"]), "one that was cut is not called lost"
    assert found["steps"][1]["next_state"] == NASTY
    (sample,) = run.tokens("dream")
    assert sample == {"ids": [1, 2, 3, 4, 5], "mask": [0, 0, 0, 1, 1], "logprobs": [0.0, 0.0, 0.0, -0.25, -3.0],
                      "versions": [-1, -1, -1, 7, 7], "texts": None}  # fmt: skip
    with pytest.raises(DataError, match="no episode 'gone'"):
        run.episode("gone")


def test_runs_are_found_by_their_folder_or_by_the_one_around_them(tmp_path: Path) -> None:
    first = generated.write_run(tmp_path / "a", "same", iterations=1, episodes=2, tasks=1)
    second = generated.write_run(tmp_path / "b", "same", iterations=1, episodes=2, tasks=1)
    assert [run.key for run in find_runs([first, tmp_path / "b"], tmp_path)] == ["same-seed0", "same-seed0~2"]
    assert [run.run_dir for run in find_runs([], tmp_path / "b")] == [second]
    for nothing in ([tmp_path / "gone"], [tmp_path]):
        with pytest.raises(ConfigError, match="no run is here"):
            find_runs(nothing, tmp_path)


def test_it_is_told_whether_somebody_works_on_a_run(tmp_path: Path) -> None:
    folder = generated.write_run(tmp_path, "works", iterations=1, episodes=2, tasks=1)
    assert activity(folder).state == "done"
    with hold(folder):
        assert activity(folder).state == "running"
    (folder / "stages" / "real.partial.json").write_text('{"fingerprint": "", "started": "", "seconds": 0}')
    now = activity(folder)
    assert (now.state, now.begun) == ("running", ["real"]), "it was written to a moment ago"
