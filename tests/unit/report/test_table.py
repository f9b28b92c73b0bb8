"""The table's numbers against scipy and plain arithmetic; what it says of rows that are missing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from dreamgym.report.table import summarise, write_table
from dreamgym.telemetry.stats import t_interval

LABELS = {"first": "the first row", "second": "the second", "third": "a third"}


def _run(seed: int, success: float, **more: Any) -> dict[str, Any]:
    return {"seed": seed, "success": success, "wilson95": [0.0, 1.0], "games": 200, "real_transitions": 0,
            "tokens": 1000, "minutes": 2.0, **more}  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9).filter(lambda v: max(v) - min(v) > 1e-6))
def test_the_interval_is_that_of_a_t_test(values: list[float]) -> None:
    oracle = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((math.fsum(values) / len(values), oracle.low, oracle.high), abs=1e-9)


def test_three_seeds_by_hand() -> None:
    """Student's t of two degrees of freedom is 4.3027 at 97.5% (any table)."""
    mean, low, high = t_interval([0.5, 0.6, 0.7])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (mean, low, high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)


def test_one_run_has_no_interval_over_runs() -> None:
    with pytest.raises(ValueError, match="at least two"):
        t_interval([0.5])


def test_rows_are_means_over_seeds_and_differences_are_paired_by_seed() -> None:
    first, second = [0.30, 0.62, 0.28], [0.52, 0.74, 0.60]
    runs = {
        "first": [_run(seed, share) for seed, share in enumerate(first)],
        "second": [
            _run(seed, share, games=200 - seed, real_transitions=900 + seed, tokens=10 * seed, minutes=1.0 + seed)
            for seed, share in reversed(list(enumerate(second)))
        ],
    }
    rows = summarise(LABELS, runs)
    assert [row["name"] for row in rows] == ["first", "second"]
    oracle = ttest_1samp(second, 0.0).confidence_interval(0.95)
    over = ttest_rel(second, first).confidence_interval(0.95)
    row = rows[1]
    assert row["seeds"] == [0, 1, 2] == [run["seed"] for run in row["per_seed"]]
    assert row["success_mean"] == pytest.approx(0.62, abs=5e-5)
    assert row["ci95"] == pytest.approx((oracle.low, oracle.high), abs=5e-5)
    assert row["points_over_first"] == pytest.approx(100 * (0.62 - 0.40), abs=5e-3)
    assert row["points_over_first_ci95"] == pytest.approx((100 * over.low, 100 * over.high), abs=5e-3)
    assert (row["games"], row["real_transitions"], row["tokens"], row["minutes"]) == (198, 901, 10, 2.0)
    assert rows[0]["points_over_first"] is None


def test_shares_end_at_0_and_1_and_a_single_seed_has_the_interval_of_its_games() -> None:
    wide, alone = summarise(
        LABELS, {"first": [_run(0, 0.0), _run(1, 1.0)], "second": [_run(1, 0.75, wilson95=[0.6, 0.9])]}
    )
    assert wide["ci95"] == [0.0, 1.0]
    assert (alone["success_mean"], alone["ci95"]) == (0.75, [0.6, 0.9])
    assert (alone["points_over_first"], alone["points_over_first_ci95"]) == (-25.0, None)


def test_a_row_without_a_seed_in_common_is_not_held_against_the_first() -> None:
    rows = summarise(LABELS, {"first": [_run(0, 0.5)], "second": [_run(1, 0.75)]})
    assert rows[1]["points_over_first"] is None


def test_the_files_hold_what_was_measured_and_name_what_was_not(tmp_path: Path) -> None:
    runs = {"first": [_run(0, 0.25), _run(1, 0.35)], "third": [_run(0, 0.5), _run(1, 0.7)]}
    page = write_table(tmp_path / "results", "table1_toy", "dreamgym experiment table1", LABELS, runs)
    kept = json.loads(page.with_suffix(".json").read_text())
    assert (kept["command"], [row["name"] for row in kept["rows"]]) == (
        "dreamgym experiment table1",
        ["first", "third"],
    )
    assert {"machine", "date"} <= kept.keys()
    assert {"name", "seeds", "success_mean", "ci95", "real_transitions", "tokens", "minutes"} <= kept["rows"][0].keys()
    text = page.read_text()
    assert "| the first row | 30.0% |" in text and "| +30.0 (" in text
    assert "Not measured yet: the second" in text
    assert "(./table1_toy.png)" in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_nothing_says_so(tmp_path: Path) -> None:
    page = write_table(tmp_path, "table1_toy", "c", LABELS, {})
    assert json.loads(page.with_suffix(".json").read_text())["rows"] == []
    assert "Not measured yet: the first row; the second; a third" in page.read_text()
