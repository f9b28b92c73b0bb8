"""The driver's handle on a learner: N worker actors that take every step together."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from dreamgym.config import DPOConfig, LearnerConfig, LoRAConfig, SFTConfig, TuningConfig
from dreamgym.errors import DataError, DreamgymError, EngineError
from dreamgym.inference.weight_transfer import backend_for
from dreamgym.learner import sft
from dreamgym.learner.algorithms import resolve
from dreamgym.learner.batches import SFT_SCHEMA, check_columns, rl_schema
from dreamgym.learner.rank import Pack
from dreamgym.learner.spec import LearnerSpec
from dreamgym.learner.worker import LearnerWorker
from dreamgym.runtime import fork_server
from dreamgym.runtime.placement import Reservation

log = logging.getLogger(__name__)
OnStep = Callable[[dict[str, float]], None]
Step = Callable[[list[int], float], dict[str, float]]
"""(members of the set, learning rate) -> metrics of one optimiser step on them."""
TOLD = ("loss", "accuracy", "margin", "nll")
"""Metrics of the last steps that tell how a tuning ended."""
PART_BYTES = 256 * 2**20
"""Weights leave in parts of about so many bytes."""
CHECKPOINT_TIMES = 9
"""A checkpoint has up to 18 bytes a weight, for each weight's two in the model's file."""
SLOWEST_DISK = 50e6
"""Bytes a second at which a disk that many nodes share writes and reads at the least."""
RECENT = 8
"""Steps over which a loss is averaged before it is held against `stop_loss`."""
MODULES = ("dreamgym.learner.on_cpu", "dreamgym.learner.worker")
"""What a worker's process imports; a fork server has it imported once for all."""


class Learner:
    """A model in training. `Learner.start` waits until it is ready; construct and call `ready` to start it
    beside other things. One call at a time; every call has the deadline `learner.timeout_s`, and what reads or writes
    the model has longer, as its size on disk asks for.
    """

    def __init__(
        self,
        model_path: str | Path,
        config: LearnerConfig,
        *,
        dtype: str,
        seed: int,
        reference: str | Path | None = None,
        lora: LoRAConfig | None = None,
        temperature: float = 1.0,
        threads: int | None = None,
        gpus: float = 0.0,
    ) -> None:
        """`gpus` of each worker: none, one, or a share of one (see `Machine.gpus`)."""
        gpu = gpus > 0
        spec = LearnerSpec(
            model_path=str(model_path),
            config=config,
            dtype=dtype,
            seed=seed,
            temperature=temperature,
            reference=str(reference) if reference else None,
            lora=lora or LoRAConfig(),
            threads=threads or (0 if gpu else max(1, (os.cpu_count() or 1) // config.workers)),
            world_size=config.workers,
            gpu=gpu,
        )
        self.config = config
        self._model = Path(model_path)
        self._rl_schema = rl_schema(resolve(config))
        self._seats = Reservation(config.workers, gpus)
        forked = fork_server.options(*MODULES, gpus=gpus)
        self._workers = [
            ray.remote(LearnerWorker).options(num_cpus=0, **self._seats.options(rank), **forked).remote(spec, rank)
            for rank in range(config.workers)
        ]
        self._address = self._workers[0].listen.remote()
        self._lora = spec.lora.rank > 0
        self._direct = False

    @classmethod
    def start(cls, model_path: str | Path, config: LearnerConfig, **options: Any) -> Learner:
        """Start the workers and wait until they hold the model; the options are the constructor's.

        Raises:
            ModelError: the model cannot be trained.
            EngineError: a worker died or was not ready in time.
        """
        learner = cls(model_path, config, **options)
        try:
            learner.ready()
        except DreamgymError:
            learner.close()
            raise
        return learner

    def ready(self) -> None:
        """Wait until every worker holds the model; see `start` for what it raises."""
        host, port = self._get([self._address])[0]
        self._get([worker.setup.remote(host, port) for worker in self._workers], self._with_disk())

    def sft(
        self, examples: pa.Table | pa.RecordBatch, config: SFTConfig, seed: int, on_step: OnStep | None = None
    ) -> dict[str, float]:
        """Fine-tune on rows of `SFT_SCHEMA` (ids, and the loss weight of each id).

        Bounded by `tokens`, `epochs` and `minutes`, whichever comes first; the cosine follows it. It ends sooner
        where the mean loss of the last `RECENT` steps falls below `stop_loss`. With `minutes` the learning rates
        depend on the clock, so such a run is not reproducible to the bit.

        Args:
            on_step: called after each step with step, loss, lr, grad_norm, tokens, progress, tokens_per_s.

        Returns:
            steps, tokens, seconds, tokens_per_s, epochs and loss (the mean of the last tenth of the steps).

        Raises:
            DataError: no row, a wrong column, or a row longer than `learner.token_budget`.
            EngineError: a worker died or missed its deadline.
        """
        table = pa.Table.from_batches([examples]) if isinstance(examples, pa.RecordBatch) else examples
        lengths = self._lengths(table, SFT_SCHEMA)
        shared = ray.put(table.combine_chunks())
        return self._tune(lengths, lambda rows, lr: self._all("sft_step", shared, rows, lr)[0], config, seed, on_step)

    def dpo(self, pairs: pa.Table, config: DPOConfig, seed: int, on_step: OnStep | None = None) -> dict[str, float]:
        """Optimise preferences on pairs of rows of `SFT_SCHEMA`, the better one first; bounded as `sft` is.

        The reference is the constructor's.

        Args:
            on_step: called after each step with what `sft` tells, accuracy, margin and nll.

        Returns:
            What `sft` returns, and accuracy, margin and nll (see `dpo_loss`; means of the last tenth of the steps).

        Raises:
            DataError: no pair, a wrong column, or a pair longer than `learner.token_budget`.
            EngineError: a worker died or missed its deadline.
        """
        lengths = self._lengths(pairs, SFT_SCHEMA, together=2)
        shared, weights = ray.put(pairs.combine_chunks()), (config.beta, config.sft_weight)

        def step(chosen: list[int], lr: float) -> dict[str, float]:
            metrics: dict[str, float] = self._all("dpo_step", shared, chosen, lr, *weights)[0]
            return metrics

        return self._tune(lengths, step, config, seed, on_step)

    def _tune(
        self, lengths: list[int], take: Step, config: TuningConfig, seed: int, on_step: OnStep | None
    ) -> dict[str, float]:
        """Take steps on members of a set, given the tokens of each, until a bound of `config` is reached."""
        budget = sft.token_budget(config, sum(lengths))
        began, done, steps = time.monotonic(), 0, []
        for rows in sft.batches(lengths, config.batch_tokens, seed):
            minutes = (time.monotonic() - began) / 60
            if done >= budget or (config.minutes and minutes >= config.minutes):
                break
            clock = minutes / config.minutes if config.minutes else 0.0
            progress = min(1.0, max((done + sum(lengths[r] for r in rows) / 2) / budget, clock))
            lr = sft.learning_rate(config, progress)
            step = take(rows, lr)
            done += int(step["tokens"])
            steps.append(step)
            if on_step is not None:
                rate = done / (time.monotonic() - began)
                on_step({**step, "step": len(steps), "lr": lr, "progress": progress, "tokens_per_s": rate})
            if len(steps) >= RECENT and np.mean([s["loss"] for s in steps[-RECENT:]]) < config.stop_loss:
                break
        seconds = time.monotonic() - began
        ending = steps[-max(1, len(steps) // 10) :]
        return {
            "steps": float(len(steps)),
            "tokens": float(done),
            "seconds": seconds,
            "tokens_per_s": done / max(seconds, 1e-9),
            "epochs": done / sum(lengths),
            **{name: float(np.mean([s[name] for s in ending])) for name in TOLD if ending and name in ending[0]},
        }

    def rl_step(self, batch: pa.RecordBatch, share: float = 1.0) -> dict[str, float]:
        """One update from a batch of `rl_schema`; the metrics are those of `LearnerWorker.rl_step`.

        Args:
            share: how much of a usual batch this is, up to 1; of `learner.minibatches` it makes that share.

        Raises:
            DataError: no row, a wrong column, or a row longer than `learner.token_budget`.
            WeightSyncError: engine and learner hold different weights; nothing was changed.
            EngineError: a worker died or missed its deadline.
        """
        self._lengths(batch, self._rl_schema)
        metrics: dict[str, float] = self._all("rl_step", ray.put(batch), share)[0]
        return metrics

    def logprobs(self, batch: pa.RecordBatch) -> list[list[float]]:
        """Logprobs (nats) of the targets (mask 1) of each row of `rl_schema` under the current weights."""
        self._lengths(batch, self._rl_schema)
        rows: list[list[float]] = self._all("logprobs", ray.put(batch))[0]
        return rows

    def weights(self, version: int, pack: Pack, part_bytes: int = PART_BYTES) -> Iterator[Any]:
        """What `pack(named weights, version)` made of the weights (with adapters: of them alone), part by part, as
        object references, as they are made.

        The parts are those of `lora.parts_of`: while one is on its way, the workers gather the next.

        Raises:
            EngineError: a worker died or missed its deadline.
        """
        streams = [
            worker.weights.options(num_returns="streaming").remote(version, pack, part_bytes)
            for worker in self._workers
        ]
        last: dict[Any, Any] = {}
        deadline = time.monotonic() + self.config.timeout_s
        while streams:
            ready, _ = ray.wait(streams, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise EngineError(f"the learner did not answer within learner.timeout_s={self.config.timeout_s} s.")
            stream = ready[0]
            item = next(stream, None)
            if item is None:
                self._get([last.pop(stream)])  # no part: it says that all went well, or what did not
                streams.remove(stream)
                continue
            if stream in last:
                yield last[stream]
            last[stream] = item

    @property
    def direct(self) -> bool:
        """Whether weights go to engines from GPU to GPU (`connect`)."""
        return self._direct

    def connect(self, engines: list[Any], ranks: int, timeout_s: float) -> None:
        """Meet the policy's engines, to `send` them weights from GPU to GPU; see `backend_for`.

        With adapters, which travel alone, there is nothing to connect.

        Args:
            engines: handles of `PolicyEngine`, with `ranks` GPUs each.
            timeout_s: deadline of each call of the engines.

        Raises:
            WeightSyncError: they cannot be connected.
            EngineError: a worker died, or they did not meet in time.
        """
        if self._lora:
            return
        mine, theirs = self._all("address"), self._get([engine.gpus.remote() for engine in engines])
        backend = backend_for({gpu for home in mine for gpu in home["gpus"]}, {gpu for gpus in theirs for gpu in gpus})
        if not backend:
            log.warning("learner and engines share some GPUs but not all: weights go by way of the host's memory")
            return
        self._all("connect", backend, engines, ranks, (mine[0]["host"], mine[0]["port"]), timeout_s)
        self._direct = True

    def send(self, version: int) -> float:
        """Bring the engines to the weights, from GPU to GPU; returns their longest standstill, in seconds.

        Raises:
            WeightSyncError: an engine refused them, and stands still.
            EngineError: a worker died or missed its deadline.
        """
        return float(self._all("send", version)[0])

    def save(self, path: Path) -> None:
        """Write a Hugging Face checkpoint (safetensors in the model's precision, tokenizer), whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        self._all("save", str(partial), patience=self._with_disk())
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)

    def save_checkpoint(self, path: Path) -> None:
        """Write what a resumed run needs to go on exactly: weights, optimiser, step and random state."""
        self._all("save_checkpoint", str(path), patience=self._with_disk())

    def load_checkpoint(self, path: Path, momentum: bool = True) -> None:
        """Go back to a checkpoint; the number of workers must be the same.

        Args:
            momentum: the optimiser goes on as well; without, it is as new, and its rate warms up.

        Raises:
            DataError: there is no checkpoint.
        """
        if not path.is_dir():
            raise DataError(f"{path}: no learner checkpoint; start the run anew, or correct the path.")
        self._all("load_checkpoint", str(path), momentum, patience=self._with_disk())

    def empty_cache(self) -> None:
        """Leave to others on the same GPU what PyTorch keeps of its memory for later."""
        self._all("empty_cache")

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
        self._seats.close()

    def _lengths(self, batch: pa.Table | pa.RecordBatch, schema: pa.Schema, together: int = 1) -> list[int]:
        """Tokens of each `together` rows that follow one another, which one micro-batch must hold."""
        check_columns(batch, schema)
        if batch.num_rows == 0:
            raise DataError("learner batch: it holds no row; collect more data.")
        rows = pc.list_value_length(batch.column("ids")).to_pylist()
        lengths = [sum(rows[at : at + together]) for at in range(0, len(rows), together)]
        if max(lengths) > self.config.token_budget:
            what = "a row has" if together == 1 else "the rows of a pair have"
            raise DataError(
                f"learner batch: {what} {max(lengths)} tokens, above learner.token_budget="
                f"{self.config.token_budget}; raise it, or shorten the sequences."
            )
        return lengths

    def _with_disk(self) -> float:
        """Deadline, in seconds, of what reads or writes all that there is of the model."""
        size = sum(file.stat().st_size for file in self._model.glob("*.safetensors"))
        return self.config.timeout_s + size * CHECKPOINT_TIMES / SLOWEST_DISK

    def _all(self, method: str, *arguments: Any, patience: float = 0.0) -> list[Any]:
        return self._get([getattr(worker, method).remote(*arguments) for worker in self._workers], patience)

    def _wait(self, references: list[Any], patience: float) -> None:
        """Until all are done or one failed, within the deadline; a failure elsewhere must not be waited out."""
        pending, deadline = list(references), time.monotonic() + patience
        while pending:
            done, pending = ray.wait(pending, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise EngineError(f"the learner did not answer within {patience:g} s; raise learner.timeout_s.")
            try:
                ray.get(done, timeout=self.config.timeout_s)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DreamgymError):
                    raise error.cause from error
                raise EngineError(f"a learner worker failed: {error.cause!r}.") from error
            except ray.exceptions.RayError as error:
                name = type(error).__name__
                raise EngineError(f"a learner worker died ({name}); resume from a checkpoint.") from error

    def _get(self, references: list[Any], patience: float = 0.0) -> list[Any]:
        """Answers within so many seconds; `learner.timeout_s`, where it is 0."""
        self._wait(references, patience or self.config.timeout_s)
        return list(ray.get(references, timeout=self.config.timeout_s))
