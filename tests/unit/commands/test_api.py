"""The Python API: what the command line does, by function calls, and a run folder opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dreamgym
from dreamgym.commands import annotate
from dreamgym.errors import ConfigError, DataError
from dreamgym.runs.folder import run_folder
from dreamgym.runs.log import RunLog
from dreamgym.runs.stage import read_stage, stage
from dreamgym.schema import TRAJECTORY_SCHEMA, from_batch, write_parquet
from dreamgym.types import Task, Trajectory


@pytest.fixture
def run(tmp_path: Path) -> dreamgym.Run:
    config = dreamgym.load(None, f"out={tmp_path}", "name=mine", "collect.tasks=3")
    with run_folder(config):
        pass
    return dreamgym.Run(config.run_dir)


def test_a_folder_knows_what_it_was_set_to(run: dreamgym.Run) -> None:
    assert run.config.collect.tasks == 3
    assert run.config.run_dir == run.path
    assert dreamgym.load(run.path, "seed=4").seed == 4
    with pytest.raises(ConfigError, match=r"without config\.yaml"):
        dreamgym.Run(run.path.parent)


def test_a_command_runs_as_on_the_command_line_and_force_makes_it_anew(
    run: dreamgym.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(annotate, "annotate", made.append)
    dreamgym.run("annotate", run.config)
    assert made == [run.config]
    with stage(run.config, "annotate", ["annotate"]):
        pass
    assert list(run.stages) == ["annotate"]
    dreamgym.run("annotate", run.config)
    assert read_stage(run.path, "annotate") is not None
    dreamgym.run("annotate", run.config, force=True)
    assert read_stage(run.path, "annotate") is None
    with pytest.raises(ConfigError, match="no command 'anotate'"):
        dreamgym.run("anotate", run.config)


def test_metrics_are_a_table_with_nothing_where_nothing_was_measured(run: dreamgym.Run) -> None:
    log = RunLog(run.path / "train" / "metrics.jsonl")
    log.write("iteration", 1, {"dream/success": 0.5, "dream/steps": 3})
    log.write("eval", 1, {"real/success": 0.25})
    table = run.metrics()
    assert table["dream/success"].to_pylist() == [0.5, None]
    assert table["real/success"].to_pylist() == [None, 0.25]
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        run.metrics("real")


def test_trajectories_are_a_table_in_the_order_of_the_iterations(run: dreamgym.Run) -> None:
    for index in (1, 0):
        played = [Trajectory(f"t{index}", Task("a", "mapreader", "go"), "policy", "dream", iteration=index)]
        write_parquet(run.path / "train" / "trajectories" / f"iteration-{index:05d}.parquet", played)
    table = run.trajectories()
    assert table.schema.equals(TRAJECTORY_SCHEMA)
    assert [t.id for t in from_batch(table)] == ["t0", "t1"]
    assert run.trajectories(columns=["iteration"]).column_names == ["iteration"]
    with pytest.raises(DataError, match="no such file yet"):
        run.trajectories("real")
    with pytest.raises(DataError, match="choose one of collect, heldout"):
        run.trajectories("eval")


def test_a_model_that_is_not_there_is_one_sentence(run: dreamgym.Run) -> None:
    with pytest.raises(DataError, match="no model; run the stage that makes it"):
        run.policy()
    assert run.checkpoints() == []


def test_the_import_brings_no_heavy_library() -> None:
    heavy = "{'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'pyarrow'}"
    code = f"import sys, dreamgym; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
