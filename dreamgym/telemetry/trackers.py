"""Experiment trackers as sinks of the loop: TensorBoard, W&B, MLflow, Trackio; offline unless told otherwise."""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from dreamgym.config import RunConfig, TrackerName
from dreamgym.errors import ConfigError, DreamgymError
from dreamgym.telemetry.metrics import RolloutSink, Sink, numbers
from dreamgym.telemetry.rollouts import COLUMNS, Rollouts

log = logging.getLogger(__name__)


class Tracker(Sink, RolloutSink, Protocol):
    """A sink of somebody else's making; `faults` are the errors of writing to it."""

    faults: tuple[type[Exception], ...]


def open_tracker(name: TrackerName, config: RunConfig) -> Sink:
    """Start a tracker of `train.trackers` for this run; its files go to `train/` in the run's folder.

    Raises:
        ConfigError: its package is not installed, or it cannot be started.
    """
    try:
        return _Guarded(name, _TRACKERS[name](config, config.run_dir / "train"))
    except DreamgymError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"train.trackers: '{name}' cannot be started: {reason}; mend that, or leave it out."
        ) from error


def settings(config: RunConfig) -> dict[str, Any]:
    """All settings, flat, as `section.field`. Keys live in the environment and are no settings; those in a URL go."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = value if isinstance(value, (int, float)) else re.sub(r"//[^/@]*@", "//***@", _text(value))

    walk("", config.model_dump(mode="json"))
    return flat


class _Guarded:
    """A tracker that may be lost without losing the run: its first fault is said, and the run goes on without it."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name = name
        self._tracker: Tracker | None = tracker

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        self._give(iteration, lambda tracker: tracker.write(kind, iteration, metrics))

    def rollouts(self, iteration: int, rows: Rollouts) -> None:
        self._give(iteration, lambda tracker: tracker.rollouts(iteration, rows))

    def _give(self, iteration: int, give: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            give(self._tracker)
        except self._tracker.faults as error:
            log.warning("the tracker %s is left out from iteration %d on: %s", self._name, iteration, error)
            self._tracker = None

    def close(self) -> None:
        if self._tracker is not None:
            try:
                self._tracker.close()
            except self._tracker.faults as error:
                log.warning("the tracker %s could not be closed: %s", self._name, error)


class TensorBoard:
    """Event files in `train/tensorboard`: `tensorboard --logdir runs`."""

    faults: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, config: RunConfig, folder: Path) -> None:
        _module("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in settings(config).items()), 0)

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        for key, value in numbers(metrics).items():
            self._writer.add_scalar(key, value, iteration)
        self._writer.flush()

    def rollouts(self, iteration: int, rows: Rollouts) -> None:
        """TensorBoard has no tables."""

    def close(self) -> None:
        self._writer.close()


class _Tables:
    """What the runs of Weights & Biases and Trackio share: `log` takes numbers and tables."""

    _run: Any
    _table: Callable[..., Any]

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(numbers(metrics), step=iteration)

    def rollouts(self, iteration: int, rows: Rollouts) -> None:
        """A table `rollouts`, one an iteration."""
        table = self._table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])
        self._run.log({"rollouts": table}, step=iteration)


class WandB(_Tables):
    """A run of Weights & Biases in `train/wandb`; offline unless `WANDB_MODE` is set, then `wandb sync` uploads it."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        wandb = _module("wandb")
        self.faults: tuple[type[Exception], ...] = (wandb.Error, OSError)
        folder.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            console="off", silent=True, disable_git=True, disable_code=True, x_disable_meta=True, x_disable_stats=True
        )
        self._table = wandb.Table
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "dreamgym"),
            name=config.run_dir.name,
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=settings(config),
            settings=quiet,
        )

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow in `train/mlflow`, or where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = _module("mlflow")
        self.faults: tuple[type[Exception], ...] = (mlflow.exceptions.MlflowException, OSError)
        # MLflow asks for a server or a database unless this says that files are meant.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or (folder / "mlflow").as_uri()
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dreamgym")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        self._run = self._client.create_run(experiment, run_name=config.run_dir.name).info.run_id
        self._metric = mlflow.entities.Metric
        told = [mlflow.entities.Param(key, _text(value)[:500]) for key, value in settings(config).items()]
        for start in range(0, len(told), 100):
            self._client.log_batch(self._run, params=told[start : start + 100])

    def write(self, kind: str, iteration: int, metrics: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        found = [self._metric(key, value, now, iteration) for key, value in numbers(metrics).items()]
        self._client.log_batch(self._run, metrics=found)

    def rollouts(self, iteration: int, rows: Rollouts) -> None:
        """A table `rollouts/iteration-NNNNN.json` among the artifacts."""
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        self._client.log_table(self._run, columns, f"rollouts/iteration-{iteration:05d}.json")

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Trackio(_Tables):
    """A run of Trackio in `train/trackio`, or in `TRACKIO_DIR`; it is sent where `TRACKIO_SPACE_ID` says."""

    faults: tuple[type[Exception], ...] = (OSError, sqlite3.Error, ValueError)

    def __init__(self, config: RunConfig, folder: Path) -> None:
        given = os.environ.get("TRACKIO_DIR")
        wanted = Path(given or folder / "trackio").absolute()
        os.environ["TRACKIO_DIR"] = str(wanted)  # read once, when it is imported
        try:
            trackio = _module("trackio")
        finally:
            if given is None:
                del os.environ["TRACKIO_DIR"]
        if wanted != trackio.TRACKIO_DIR:
            raise ConfigError(
                f"train.trackers: 'trackio' has one folder a process, here {trackio.TRACKIO_DIR}; set TRACKIO_DIR to a "
                "folder for all runs."
            )
        self._table, self._finish = trackio.Table, trackio.finish
        with redirect_stdout(io.StringIO()):  # it tells how to open a dashboard
            self._run = trackio.init(
                project=os.environ.get("TRACKIO_PROJECT", "dreamgym"),
                name=config.run_dir.name,
                config=settings(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def close(self) -> None:
        with redirect_stdout(io.StringIO()):
            self._finish()


_TRACKERS: dict[TrackerName, Callable[[RunConfig, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def _module(name: TrackerName) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"train.trackers: '{name}' needs its package; pip install 'dreamgym[{name}]', or leave it out."
        ) from error


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
