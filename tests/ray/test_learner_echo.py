"""The echo of what the world answered, on a real DeepSpeed worker, against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_learner import close_to, plain_sft_step
from tiny_model import VOCAB, rollouts, saved

from dreamgym.config import LearnerConfig
from dreamgym.learner.batches import RL_SCHEMA, SFT_SCHEMA
from dreamgym.learner.learner import Learner

pytestmark = pytest.mark.usefixtures("local_ray")


def test_an_echo_is_the_cross_entropy_of_what_the_world_answered(model: Path, tmp_path: Path) -> None:
    """Where no answer is better than another, it is all that is learned: the step is one of a plain loop on it."""
    rows = rollouts(model).to_pylist()
    for row in rows:
        row["advantages"] = [0.0] * len(row["ids"])
    config = LearnerConfig(lr=1e-3, warmup_steps=0, minibatches=1, echo=1.0)
    learner = Learner.start(model, config, dtype="float32", seed=0, threads=1)
    told = learner.rl_step(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA))
    got = saved(learner, tmp_path / "m")
    learner.close()
    answered = [[float(not m and any(row["mask"][:at])) for at, m in enumerate(row["mask"])] for row in rows]
    table = pa.table({"ids": [row["ids"] for row in rows], "weights": answered}, schema=SFT_SCHEMA)
    close_to(got, plain_sft_step(model, table, 1e-3), atol=5e-5)
    uniform = float(np.log(VOCAB))
    assert told["echo_loss"] == pytest.approx(uniform, rel=0.2) and told["loss"] == pytest.approx(0.0, abs=1e-6)
