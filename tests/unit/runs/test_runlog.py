"""The metrics log survives what happens to runs, the clock adds up, and progress reads well in a log file."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dreamgym.errors import DataError
from dreamgym.runs.log import RunLog, read_log
from dreamgym.telemetry.clock import Clock, duration, time_table
from dreamgym.telemetry.console import progress, waiting
from tests.waiting import HANG_S


def test_what_is_written_is_on_disk_at_once_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "train" / "metrics.jsonl"
    with RunLog(path) as log:
        log.write("iteration", 0, {"dream/success": np.float32(0.5), "count": np.int64(3), "word": "x"})
        assert read_log(path) == [{"kind": "iteration", "iteration": 0, "dream/success": 0.5, "count": 3, "word": "x"}]


def test_numbers_that_are_not_finite_become_null_in_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(path) as log:
        log.write("iteration", 0, {"a": math.nan, "b": np.float32("inf"), "c": 1.0})
    record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (record["a"], record["b"], record["c"]) == (None, None, 1.0)


def test_a_log_of_a_killed_run_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(path) as log:
        for i in range(3):
            log.write("iteration", i, {"x": i})
    path.write_text(path.read_text() + '{"kind": "iteration", "itera')
    assert [r["x"] for r in read_log(path)] == [0, 1, 2]
    with RunLog(path) as log:
        log.write("iteration", 3, {"x": 3})
    assert [r["x"] for r in read_log(path)] == [0, 1, 2, 3]


def test_resuming_from_a_checkpoint_forgets_what_came_after_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with RunLog(path) as log:
        for i in range(6):
            log.write("iteration", i, {})
        log.write("eval", 4, {})
        log.truncate_after(3)
        log.write("iteration", 4, {"again": True})
    assert [(r["kind"], r["iteration"]) for r in read_log(path)] == [("iteration", i) for i in range(5)]
    assert read_log(path)[-1]["again"] is True


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\nnonsense\n{"iteration": 1}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2: not a JSON object"):
        read_log(path)
    with pytest.raises(DataError, match="no such file"):
        read_log(tmp_path / "other.jsonl")


class _Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_part_inside_another_is_counted_once_and_all_add_up() -> None:
    now = _Time()
    clock = Clock(now)
    now.now += 1
    with clock("rollout"):
        now.now += 10
        with clock("sync"):
            now.now += 4
        now.now += 2
    with clock("learner"):
        now.now += 3
    now.now += 5
    assert clock.parts() == {"rollout": 12, "sync": 4, "learner": 3, "other": 6}
    assert sum(clock.parts().values()) == clock.total == 25


def test_a_clock_goes_on_from_the_parts_of_an_earlier_one() -> None:
    now = _Time()
    clock = Clock(now)
    clock.go_on({"rollout": 12, "learner": 3, "other": 5})
    with clock("learner"):
        now.now += 4
    now.now += 1
    assert clock.parts() == {"rollout": 12, "learner": 7, "other": 6}
    assert clock.total == 25


def test_time_is_charged_also_when_a_part_fails_or_still_runs() -> None:
    now = _Time()
    clock = Clock(now)

    def fail() -> None:
        with clock("a"):
            now.now += 2
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    with clock("b"):
        now.now += 7
        assert clock.parts() == {"b": 7, "a": 2, "other": 0}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 9)), max_size=12))
def test_parts_always_add_up_to_the_total(steps: list[tuple[str, int, int]]) -> None:
    now = _Time()
    clock = Clock(now)

    def nest(part: str, depth: int, seconds: int) -> None:
        with clock(part):
            now.now += seconds
            if depth:
                nest(part + "x", depth - 1, seconds)

    for step in steps:
        nest(*step)
        now.now += 1
    assert sum(clock.parts().values()) == pytest.approx(clock.total)
    assert clock.parts()["other"] == pytest.approx(len(steps))


def test_the_table_of_shares_names_each_part() -> None:
    out = Console(file=io.StringIO(), width=100)
    out.print(time_table({"rollout": 30.0, "learner": 90.0}))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "25%" in text
    assert "75%" in text
    assert "2 min 00 s" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 00 s"), (3599.6, "1 h 00 min"), (7260, "2 h 01 min")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_in_a_log_file_is_a_line_now_and_then_not_a_flood() -> None:
    out = Console(file=io.StringIO(), width=100, force_terminal=False)
    with progress("episodes", 5000, out) as bar:
        for _ in range(5000):
            bar.advance(note="won 12%")
    with waiting("starting engines", out):
        pass
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].startswith("episodes 5000/5000 · ")
    assert lines[0].endswith("won 12%")
    assert [line.split(" · ")[0] for line in lines[1:]] == ["starting engines …", "starting engines"]


def test_a_log_file_says_how_long_the_rest_will_take_from_the_second_report_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the pace since the first report: before it parts were starting, and a resumed run begins with work done."""
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("dreamgym.telemetry.console.time.monotonic", lambda: float(next(clock)))
    out = Console(file=io.StringIO(), width=100, force_terminal=False)
    with progress("train", 10, out) as bar:
        for done in (4, 5, 10):
            bar.reach(done)
    first, second, last, _ = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "left" not in first + last
    assert second.startswith("train 5/10") and second.endswith(" left")


WATCHED = """
import subprocess, sys, time
from dreamgym.runtime.processes import PeakMemory

hold = "held = bytearray(b'x') * 2**28; print('held', flush=True); input()"
with PeakMemory(every_s=0.02) as before:
    pass
with PeakMemory(every_s=0.02) as during:
    child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    while during.peak_gib - before.peak_gib <= 0.24:
        time.sleep(0.02)
    child.kill()
    child.wait()
print(during.peak_gib - before.peak_gib)
"""


def test_peak_memory_counts_the_children_too() -> None:
    """In a process of its own, which has no other children; it ends once a sample has counted this one."""
    told = subprocess.run(
        [sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=HANG_S, cwd=Path(__file__).parents[3]
    )
    assert told.returncode == 0, told.stderr
    assert 0.24 < float(told.stdout) < 0.6
