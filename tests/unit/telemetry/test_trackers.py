"""Trackers on their real packages, offline: what was written is read back from their files, and no key is in them."""

from __future__ import annotations

import importlib.util
import json
import math
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dreamgym.config import RunConfig
from dreamgym.errors import ConfigError
from dreamgym.telemetry.rollouts import COLUMNS, rollouts
from dreamgym.telemetry.trackers import open_tracker, settings
from dreamgym.types import Task, Trajectory, Transition

SECRET = "sk-never-to-be-seen"
NASTY = "<script>window.hit=1</script>"
TASK = Task("t", "rooms", f"do {NASTY}", first_state="here")
STEPS = [Transition("here", "go", "there", 0.0, False, thought="I go"), Transition("there", "look", NASTY, 1.0, True)]
ROWS = rollouts([Trajectory("e1", TASK, "policy", "dream", STEPS, success=True, iteration=0)])
METRICS = {"dream/success": np.float32(0.625), "rollout/tokens": 4096, "word": "x", "learner/loss": math.nan}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    for name in ("OPENAI_API_KEY", "QDRANT_API_KEY", "WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_DIR"):
        monkeypatch.delenv(name, raising=False)
    return RunConfig.model_validate(
        {"name": "tracked", "out": str(tmp_path), "env": {"options": {"url": f"https://me:{SECRET}@game:6333"}}}
    )


def written(name: str, config: RunConfig) -> Path:
    """The folder of a tracker that was given an evaluation and two iterations."""
    tracker = open_tracker(name, config)  # type: ignore[arg-type]
    tracker.write("eval", 0, {"real/success": 0.25})
    tracker.rollouts(1, ROWS)  # type: ignore[attr-defined]
    tracker.write("iteration", 1, METRICS)
    tracker.write("iteration", 2, {**METRICS, "dream/success": 0.75})
    tracker.close()
    folder = config.run_dir / "train" / name
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    return folder


def test_tensorboard_reads_back_what_was_written(config: RunConfig) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(written("tensorboard", config)))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("dream/success")] == [(1, 0.625), (2, 0.75)]
    assert [(e.step, e.value) for e in events.Scalars("real/success")] == [(0, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("rollout/tokens")] == [(1, 4096), (2, 4096)]
    assert set(events.Tags()["scalars"]) == {"dream/success", "real/success", "rollout/tokens"}


def test_wandb_stays_offline_and_its_file_holds_the_metrics(config: RunConfig) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra 'wandb' is not installed")
    from wandb.proto import wandb_internal_pb2

    folder = written("wandb", config)
    wandb.teardown()  # waits for the process that writes the file
    (file,) = folder.glob("offline-run-*/*.wandb")
    rows = []
    for data in _leveldb_log(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            rows.append({"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item})
    assert [(r["_step"], r["dream/success"]) for r in rows if "dream/success" in r] == [("1", "0.625"), ("2", "0.75")]
    (told,) = [r for r in rows if "rollouts/path" in r]
    assert told["_step"] == "1"
    table = json.loads(next(folder.glob("offline-run-*/files/" + json.loads(told["rollouts/path"]))).read_text())
    assert (table["columns"], table["data"]) == (list(COLUMNS), [list(row.values()) for row in ROWS])


def _leveldb_log(data: bytes, head: int = 7, block: int = 32 * 1024) -> Iterator[bytes]:
    """The records of W&B's file: a head, then LevelDB's log format (checksum, length, type, piece of a record)."""
    at, record = head, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last piece
            yield record
            record = b""


def test_mlflow_keeps_its_files_in_the_run(config: RunConfig) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    folder = written("mlflow", config)
    client = mlflow.MlflowClient(tracking_uri=folder.as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("dreamgym").experiment_id])
    assert (run.info.run_name, run.info.status) == ("tracked-seed0", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "dream/success")
    assert [(m.step, m.value) for m in history] == [(1, 0.625), (2, 0.75)]
    assert run.data.params["train.iterations"] == "30"
    (artifact,) = client.list_artifacts(run.info.run_id, "rollouts")
    assert artifact.path == "rollouts/iteration-00001.json"
    table = json.loads(Path(client.download_artifacts(run.info.run_id, artifact.path)).read_text())
    assert (table["columns"], table["data"]) == (list(COLUMNS), [list(row.values()) for row in ROWS])


def test_trackio_stays_here_and_its_database_holds_metrics_and_tables(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("the extra 'trackio' is not installed")
    folder = written("trackio", config)
    from trackio.sqlite_storage import SQLiteStorage

    assert folder == config.run_dir / "train" / "trackio" and capsys.readouterr().out == ""
    logs = SQLiteStorage.get_logs("dreamgym", "tracked-seed0")
    assert [(r["step"], r["dream/success"]) for r in logs if "dream/success" in r] == [(1, 0.625), (2, 0.75)]
    (told,) = [r for r in logs if "rollouts" in r]
    assert told["step"] == 1
    assert NASTY in json.dumps(told["rollouts"]) or any(NASTY in p.read_text() for p in folder.rglob("*.json"))
    other = config.model_copy(update={"name": "other"})
    with pytest.raises(ConfigError, match="one folder a process"):
        open_tracker("trackio", other)


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    config: RunConfig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from torch.utils.tensorboard import SummaryWriter

    tracker = open_tracker("tensorboard", config)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "flush", full)
    tracker.write("iteration", 7, {"dream/success": 0.5})
    assert "tensorboard is left out from iteration 7 on: [Errno 28] No space left" in caplog.text
    tracker.write("iteration", 8, {"dream/success": 0.5})
    tracker.close()
    assert len(caplog.records) == 1


def test_a_missing_package_is_one_sentence_that_names_the_extra(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=rf"pip install 'dreamgym\[{name}\]'"):
            open_tracker(name, config)  # type: ignore[arg-type]


def test_settings_name_the_variables_of_keys_and_hold_none(config: RunConfig) -> None:
    flat = settings(config)
    assert flat["replay.qdrant.api_key_env"] == "QDRANT_API_KEY"
    assert flat["env.options.url"] == "https://***@game:6333"
    assert flat["train.iterations"] == 30
    assert SECRET not in str(flat)
