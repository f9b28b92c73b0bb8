"""The forecast for many GPUs: how they are shared out, what the constants are read from, and what it says binds."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
simulate = importlib.import_module("simulate")

READ = {"retrieval_ms": 0.1, "dreamed": 0.8, "transfer_fixed_s": 0.1, "transfer_mb_per_s": 50_000.0}
SLOW = {
    "replay": {"retrieval_ms": 200.0},
    "weight transfer": {"transfer_mb_per_s": 50.0},
    "driver": {"cpu_ms_driver": 500.0},
    "rollout actors": {"cpu_ms_actor": 2000.0},
    "learner": {"learner_peak_share": 0.004},
}


def constants(**changed: float) -> Any:
    values = {name: value for name, (value, _) in simulate.ASSUMED.items()}
    values |= READ | {"standstill_share": 0.5} | changed
    return simulate.Constants(values, dict.fromkeys(values, "a test"))


@pytest.mark.parametrize("gpus", [3, 8, 61, 512])
def test_gpus_are_shared_out_by_weight_and_none_is_left(gpus: int) -> None:
    counts = simulate.shared_out(gpus, [5.0, 3.0, 0.001])
    assert sum(counts) == gpus and min(counts) >= 1
    assert counts[0] >= counts[1] >= counts[2]


@pytest.mark.parametrize("part", SLOW)
def test_the_part_that_is_slow_is_what_binds(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "FEWEST_EPISODES", 64)
    found = simulate.forecast(8, "staleness 1", constants(**SLOW[part]))
    assert found["next"] == part and found["remedy"] == simulate.REMEDIES[part]
    shares = {**found["busy"], "length of an episode": 0.0}
    assert max(shares, key=lambda name: shares[name]) == part
    assert sum(found["gpus"].values()) == 8


def test_learners_take_whole_micro_batches_and_exchange_weights() -> None:
    """As many bins for each: a GPU more than there are bins has nothing to do but the exchange."""
    known = constants()
    tokens = 2 * 8 * simulate.TOKEN_BUDGET
    one_bin = simulate.TOKEN_BUDGET * simulate.flops_per_token() / simulate.learner_flops(known)
    sent = 4 * simulate.WEIGHTS / 40e9
    assert simulate.learner_seconds(1, tokens, known) == pytest.approx(2 * 8 * one_bin)
    assert simulate.learner_seconds(8, tokens, known) == pytest.approx(2 * (one_bin + sent * 7 / 8))
    assert simulate.learner_seconds(16, tokens, known) == pytest.approx(2 * (one_bin + sent * 15 / 16))


def test_the_transfers_line_goes_through_both_models() -> None:
    def model(size: int, seconds: float) -> dict[str, Any]:
        return {"bytes": size, "seconds": {"idle": [seconds] * 3}, "engine_stood_still_s": {"in flight": seconds / 2}}

    found = simulate.of_transfer({"by_model": {"small": model(10**6, 0.5), "135m": model(201 * 10**6, 2.5)}})
    assert found["transfer_mb_per_s"] == pytest.approx(100.0)
    assert found["transfer_fixed_s"] == pytest.approx(0.49)
    assert found["standstill_share"] == pytest.approx(0.5)


def test_an_engine_is_fitted_to_the_ends_of_a_curve_and_foretells_what_is_between() -> None:
    """The curve is simulated itself, so that the fit has to come back to it."""
    engine = simulate.Engines(1, 0.05, 6.0, most=128)

    def seconds(size: int) -> float:
        load = simulate.Workload(max(size, 24), simulate.TURNS, dreamed=0.0, in_flight=size)
        total: float = simulate.Run(simulate.on_cpu(engine), load, 0).outcome(1).total_s
        return total

    curve = {size: {"episodes": max(size, 24), "seconds": seconds(size)} for size in (1, 4, 16, 64)}
    found = simulate.check_in_flight(curve)
    assert found["alone_ms"] == pytest.approx(50.0, rel=0.01)
    assert found["knee"] == pytest.approx(6.0, rel=0.01)
    assert list(found["ratio"].values()) == pytest.approx([1.0] * 4, rel=0.01)
