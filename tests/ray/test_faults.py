"""Parts of a run are killed while it goes on: it ends by itself, and each trajectory has been trained exactly once.

The cheapest and sharpest cases; `benchmarks/faults.py` has them all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos import REAL as SMALL
from benchmarks.chaos import Life, check, left_behind, prepare
from tests.tiny import PATIENT

pytestmark = [pytest.mark.timeout(7200), pytest.mark.usefixtures("no_ray")]
ITERATIONS = 5
REAL = [*SMALL, *PATIENT]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("runs"), REAL)


def test_a_run_that_loses_an_engine_and_then_a_learner_worker_goes_on_by_itself(prepared: Path) -> None:
    life = Life(prepared, [*REAL, f"train.iterations={ITERATIONS}"])
    life.part_at("started", 1, "policy engine").kill()
    life.wait_for("resumed", 0)
    life.part_at("finished", 3, "learner worker").kill()
    life.wait_for("resumed", 2)
    family = life.family()
    assert life.end() == 0, life.output()[-3000:]
    told = check(life.folder)
    assert told.started == told.finished == ITERATIONS * 16
    assert (told.resumed, told.lost, told.trained_twice) == (2, 0, 0)
    assert left_behind(family) == []
