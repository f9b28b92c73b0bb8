"""Files with wounds (trajectories, replay buffers, logs, records) are read, or one sentence says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.data.importing import MAX_LINE_BYTES, import_files
from dreamgym.errors import DataError
from dreamgym.replay import store
from dreamgym.replay.records import from_trajectory
from dreamgym.report.rundata import read_run
from dreamgym.runs.log import RunLog, read_log
from dreamgym.runs.stage import read_stage
from dreamgym.schema import read_parquet, write_parquet
from dreamgym.types import Task, Trajectory, Transition

Wounds = list[tuple[float, int, bytes]]
JUNK = st.binary(max_size=8) | st.sampled_from(
    [b"[" * 5000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"NaN", b'"\\ud800"', b"\xff", b"\r", b"\n", b"null", b"\x00"]
)
WOUNDS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), JUNK), min_size=1, max_size=4)
FUZZ = settings(max_examples=300)


def wounded(whole: bytes, wounds: Wounds) -> bytes:
    """Some bytes at each place cut out, others put in."""
    for share, cut, junk in wounds:
        at = int(share * len(whole))
        whole = whole[:at] + junk + whole[at + cut :]
    return whole


def survives(read: Callable[[Path], Any], path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        read(path)
    except DataError as error:
        sentence = str(error)
    else:
        return
    assert path.name in sentence or "collect.files" in sentence
    assert "\n" not in sentence and len(sentence) < 2000


def episodes(**changes: Any) -> list[Trajectory]:
    def steps(n: int) -> list[Transition]:
        return [Transition("hall", "go", "attic", 0.0, False), Transition("attic", "open", f"end {n}", 1.0, True)]

    made = [Trajectory(f"e{n}", Task(f"t{n}", "mine", "open the chest"), "expert", "real", steps(n)) for n in range(4)]
    for trajectory in made:
        for name, value in changes.items():
            setattr(trajectory, name, value)
    return made


def imported(path: Path) -> list[Trajectory]:
    train, heldout = import_files([path], "mine", 0, 60)
    write_parquet(path.with_name("kept"), train + heldout)
    return read_parquet(path.with_name("kept"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("files")
    rows = [
        {"task": {"id": f"t{n}", "instruction": "open"}, "steps": [{"state": "hall", "action": "go"}], "success": True}
        for n in range(4)
    ]
    (home / "user.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), home / "user.parquet")
    write_parquet(home / "own.parquet", episodes())
    items = [item for trajectory in episodes() for item in from_trajectory(trajectory)]
    vectors = np.ones((len(items), 8), np.float32)
    store.write(home / "replay.parquet", items, vectors, [0] * len(items), {"watermark": 1})
    with RunLog(home / "metrics.jsonl") as log:
        for iteration in range(4):
            log.write("iteration", iteration, {"a": 1.5, "b": None, "c": "text"})
    return home


@FUZZ
@given(name=st.sampled_from(["user.jsonl", "user.parquet", "own.parquet"]), wounds=WOUNDS)
def test_trajectories(home: Path, name: str, wounds: Wounds) -> None:
    survives(imported, home / f"wounded-{name}", wounded((home / name).read_bytes(), wounds))


@FUZZ
@given(wounds=WOUNDS)
def test_a_replay_buffer(home: Path, wounds: Wounds) -> None:
    survives(store.read, home / "wounded-replay.parquet", wounded((home / "replay.parquet").read_bytes(), wounds))


@FUZZ
@given(wounds=WOUNDS)
def test_a_run_log(home: Path, wounds: Wounds) -> None:
    data = wounded((home / "metrics.jsonl").read_bytes(), wounds)
    survives(read_log, home / "wounded.jsonl", data)
    survives(lambda path: RunLog(path).close(), home / "wounded.jsonl", data)


@FUZZ
@given(data=st.binary(max_size=30) | WOUNDS.map(lambda wounds: wounded(b'{"fingerprint": "a", "seconds": 1}', wounds)))
def test_the_record_of_a_stage(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    run = tmp_path_factory.getbasetemp() / "run" / "stages"
    run.mkdir(parents=True, exist_ok=True)
    survives(lambda _: read_stage(run.parent, "collect"), run / "collect.json", data)


@pytest.mark.parametrize("broken", ["stages/a.json", "eval/a.json", "data/a.parquet", "train/metrics.jsonl"])
@pytest.mark.parametrize("data", [b"{}\n", b"[]\n", b"PAR1", b"\xff\n", b"[" * 9999 + b"\n", b'{"who": 1}\n'], ids=len)
def test_a_broken_run_folder_has_no_report_but_a_sentence(tmp_path: Path, broken: str, data: bytes) -> None:
    (tmp_path / "config.yaml").write_text("name: a")
    (tmp_path / broken).parent.mkdir()
    survives(lambda _: read_run(tmp_path), tmp_path / broken, data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fold": "test"}, "fold: should be 'train' or 'dev'"),
        ({"fold": "holdout"}, "fold: should be 'train' or 'dev'"),
        ({"source": "teacher"}, "source: should be 'expert', 'noisy', 'random' or 'policy'"),
        ({"world": "dream"}, "world: should be 'real'"),
        ({"status": "env_failed"}, "status: should be 'ok'"),
        ({"steps": []}, "steps: List should have at least 1 item"),
        ({"steps": [Transition("", "go", "a", 0.0, True)]}, "steps[0].state: "),
        ({"steps": [Transition("a", "go", "a", float("nan"), True)]}, "steps[0].reward: "),
    ],
)
def test_rows_that_say_they_are_a_runs_own_are_checked(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write_parquet(tmp_path / "own.parquet", episodes(**changes))
    with pytest.raises(DataError) as error:
        import_files([tmp_path / "own.parquet"], "mine", 0, 60)
    assert f"row 0: {said}" in str(error.value)


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("instruction", None, "instruction"),
        ("steps", [None], "steps"),
        ("parent_ids", ["a", None], "parent_ids"),
        ("samples", [{"ids": [None], "mask": [1], "logprobs": [0.0], "versions": [0]}], "samples.ids"),
        ("info", [("a", None)], "info"),
    ],
)
def test_a_null_anywhere_is_named(tmp_path: Path, column: str, value: Any, named: str) -> None:
    write_parquet(tmp_path / "own.parquet", episodes())
    rows = pq.read_table(tmp_path / "own.parquet").to_pylist()
    rows[2][column] = value
    loose = pa.schema([pa.field(f.name, f.type) for f in pq.read_schema(tmp_path / "own.parquet")])
    pq.write_table(pa.Table.from_pylist(rows, loose), tmp_path / "own.parquet")
    with pytest.raises(DataError, match=rf"own.parquet: '{named}' is null in some row"):
        import_files([tmp_path / "own.parquet"], "mine", 0, 60)


def test_a_line_without_an_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "user.jsonl").open("wb") as file:
        file.truncate(50 * MAX_LINE_BYTES)
    with pytest.raises(DataError, match=r"user.jsonl:1: has \d+ bytes or more; put one trajectory in a line"):
        import_files([tmp_path / "user.jsonl"], "mine", 0, 60)


@pytest.mark.parametrize("field", ["state", "action", "next_state", "reasoning", "expert_action"])
def test_a_text_without_an_end_is_refused(tmp_path: Path, field: str) -> None:
    step = {"state": "hall", "action": "go", "next_state": "attic", field: "x" * 1_000_001}
    record = {"task": {"instruction": "open"}, "steps": [step], "success": True}
    (tmp_path / "user.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match=rf"user.jsonl:1: steps\[0\].{field}: String should have at most 1000000"):
        import_files([tmp_path / "user.jsonl"], "mine", 0, 60)
