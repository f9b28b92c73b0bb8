"""The learner on real DeepSpeed workers: exact for any split of the work, resumable, and loud about what is wrong."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import pytest
import ray
import torch
from tiny_model import VOCAB, Weights, rollouts, saved
from transformers import AutoModelForCausalLM

from dreamgym.config import LearnerConfig, ModelConfig, ScratchModel, SFTConfig
from dreamgym.errors import DataError, EngineError, ModelError, WeightSyncError
from dreamgym.learner.batches import RL_SCHEMA, SFT_SCHEMA, TRAJECTORY
from dreamgym.learner.learner import Learner
from dreamgym.learner.worker import LearnerWorker
from dreamgym.models.checkpoint import prepare_model

pytestmark = pytest.mark.usefixtures("local_ray")
SFT = SFTConfig(tokens=1_500, batch_tokens=600, lr=1e-3, warmup=0.0)
RL = {"lr": 1e-3, "warmup_steps": 0, "minibatches": 2, "kl_coef": 0.1, "entropy_coef": 0.01, "echo": 0.3}


@pytest.fixture(scope="module")
def learner(model: Path) -> Iterator[Learner]:
    """One float32 worker for the tests that do not care for its weights."""
    learner = Learner.start(model, LearnerConfig(**RL), dtype="float32", seed=3, threads=1)
    yield learner
    learner.close()


def examples(rows: int = 24) -> pa.Table:
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, rows)
    ids = [rng.integers(0, VOCAB, n).tolist() for n in lengths]
    weights = [(rng.integers(0, 3, n) / 2).tolist() for n in lengths]
    return pa.table({"ids": ids, "weights": weights}, schema=SFT_SCHEMA)


def sent(learner: Learner, version: int, part_bytes: int) -> tuple[Weights, int]:
    """What would go to engines, and in how many parts."""

    def pack(named: object, version: int) -> tuple[int, list[tuple[str, torch.Tensor]]]:
        return version, [(name, tensor.clone()) for name, tensor in named]  # type: ignore[attr-defined]

    parts = [ray.get(part) for part in learner.weights(version, pack, part_bytes)]
    assert {said for said, _ in parts} == {version}
    return dict(named for _, tensors in parts for named in tensors), len(parts)


def close_to(got: Weights, expected: Weights, atol: float) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def plain_sft_step(model: Path, table: pa.Table, lr: float) -> Weights:
    """The oracle: one step of bare PyTorch on sequences one by one, all rows in one batch."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
    optimizer = torch.optim.AdamW(lm.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    rows = table.to_pylist()
    total = sum(sum(row["weights"][1:]) for row in rows)
    for row in rows:
        logs = lm(torch.tensor(row["ids"])[None]).logits[0].log_softmax(-1)
        picked = logs[:-1].gather(1, torch.tensor(row["ids"][1:])[:, None])[:, 0]
        (-(picked * torch.tensor(row["weights"][1:])).sum() / total).backward()
    torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
    optimizer.step()
    return {name: weight.detach() for name, weight in lm.named_parameters()}


def test_one_step_is_the_step_of_a_plain_loop(model: Path, tmp_path: Path) -> None:
    table = examples()
    config = SFTConfig(tokens=1, batch_tokens=10**6, lr=1e-2, warmup=0.0)
    learner = Learner.start(model, LearnerConfig(), dtype="float32", seed=0, threads=1)
    steps: list[dict[str, float]] = []
    summary = learner.sft(table, config, seed=0, on_step=steps.append)
    got = saved(learner, tmp_path / "m")
    learner.close()
    assert summary["steps"] == len(steps) == 1 and steps[0]["tokens"] == sum(len(ids) for ids in table["ids"])
    close_to(got, plain_sft_step(model, table, steps[0]["lr"]), atol=5e-5)


def test_muon_learns_alike_in_either_precision_and_needs_no_compiler(model: Path, compiled: Path) -> None:
    """In float32 DeepSpeed would clip what Muon has made of a gradient, after which hardly anything is learned."""
    config = SFTConfig(tokens=60_000, batch_tokens=600, lr=3e-3, warmup=0.05)
    losses = {}
    for dtype in ("bfloat16", "float32"):
        learner = Learner.start(model, LearnerConfig(optimizer="muon", lr=3e-3), dtype=dtype, seed=3, threads=1)
        losses[dtype] = learner.sft(examples(), config, seed=5)["loss"]
        learner.close()
    assert losses["float32"] == pytest.approx(losses["bfloat16"], rel=0.2)
    assert list(compiled.iterdir()) == []


@pytest.fixture(scope="module")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, dict[str, float]]:
    """SFT, then two RL updates, by one worker with one micro-batch a step."""
    return train(model, tmp_path_factory.mktemp("reference") / "m")


def train(model: Path, out: Path, **changes: int) -> tuple[Weights, dict[str, float]]:
    config = LearnerConfig(**{**RL, **changes})
    learner = Learner.start(model, config, dtype="float32", seed=3, threads=1)
    learner.sft(examples(), SFT, seed=5)
    batch = rollouts(model)
    learner.rl_step(batch)
    metrics = learner.rl_step(batch)
    weights = saved(learner, out)
    close_to(sent(learner, 1, 50_000)[0], weights, atol=0.0)
    learner.close()
    return weights, metrics


@pytest.mark.parametrize(
    "changes",
    [
        {"token_budget": 70},
        {"workers": 2},
        {"workers": 2, "token_budget": 128, "zero_stage": 3},
        pytest.param({"workers": 2, "token_budget": 64, "zero_stage": 2}, marks=pytest.mark.slow),
        pytest.param({"zero_stage": 0}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param({"offload": True}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_workers_micro_batches_and_zero_stages_change_nothing(
    model: Path, tmp_path: Path, changes: dict[str, int], reference: tuple[Weights, dict[str, float]]
) -> None:
    weights, metrics = train(model, tmp_path / "m", **changes)
    close_to(weights, reference[0], atol=5e-5)
    names = "loss echo_loss entropy kl clip_frac ratio gap_mean gap_p999 trained_tokens clip_low_frac clip_high_frac"
    names = [*names.split(), "ratio_max", "old_kl", *(["grad_norm"] if changes.get("zero_stage") != 0 else [])]
    expected = {name: reference[1][name] for name in names}
    assert {name: metrics[name] for name in names} == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_a_reference_lies_in_parts_where_the_policy_does(tmp_path: Path) -> None:
    """Matrices above 100,000 weights, since DeepSpeed leaves smaller ones whole."""
    shape = ScratchModel(layers=1, hidden=352, intermediate=384, heads=2, vocab=320, context=128)
    model = prepare_model(ModelConfig(scratch=shape, dtype="float32"), tmp_path / "large", ["go north\n"] * 20, 0)
    batch, told = rollouts(model), []

    def weights_here(worker: LearnerWorker) -> list[int]:
        return [weight.numel() for weight in worker._reference.parameters()]

    for changes in ({}, {"workers": 2, "zero_stage": 3}):
        config = LearnerConfig(**{**RL, **changes})
        learner = Learner.start(model, config, dtype="float32", seed=3, threads=1)
        told.append(learner.rl_step(batch))
        here = [ray.get(worker.__ray_call__.remote(weights_here)) for worker in learner._workers]
        learner.close()
        assert (min(here[0]) == 0) == bool(changes)
    assert told[0]["kl"] > 0
    assert told[1] == pytest.approx(told[0] | {"seconds": told[1]["seconds"]}, rel=1e-3, abs=1e-5)


WIDE = ScratchModel(layers=1, hidden=128, intermediate=1024, heads=2, vocab=320, context=128)
"""Its largest weights have 131,072 elements: DeepSpeed keeps whole on every rank what has fewer than 100,000."""

PARTITIONED = ["down_proj", "gate_proj", "up_proj"]


class SmallBuckets(LearnerWorker):
    """A worker whose weights and gradients travel in buckets that are smaller than some of them."""

    def _build_engine(self) -> None:
        from dreamgym.learner import engines

        usual = engines._deepspeed_config

        def config(*arguments: Any) -> dict[str, Any]:
            buckets = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
            made = usual(*arguments)
            return {**made, "zero_optimization": {**made["zero_optimization"], **dict.fromkeys(buckets, 50_000)}}

        engines._deepspeed_config = config
        super()._build_engine()


@pytest.mark.parametrize("stage", [2, 3])
def test_weights_that_are_partitioned_learn_and_leave_as_whole_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    model = prepare_model(ModelConfig(scratch=WIDE, dtype="float32"), tmp_path / "m", ["state: go north\n"] * 20, 0)
    monkeypatch.setattr("dreamgym.learner.learner.LearnerWorker", SmallBuckets)
    learner = Learner.start(model, LearnerConfig(workers=2, zero_stage=stage), dtype="float32", seed=0, threads=1)
    lrs: list[float] = []
    once = SFTConfig(tokens=1, batch_tokens=10**6, lr=1e-3, warmup=0.0)
    learner.sft(examples(), once, seed=0, on_step=lambda step: lrs.append(step["lr"]))
    partitioned = ray.get(
        learner._workers[0].__ray_call__.remote(
            lambda w: [n for n, p in w._network.lm.named_parameters() if stage == 3 and not p.ds_persist]
        )
    )
    got, parts = sent(learner, 1, 50_000)
    close_to(saved(learner, tmp_path / "saved"), got, atol=0.0)
    learner.close()
    assert stage == 2 or sorted(name.split(".")[-2] for name in partitioned) == PARTITIONED
    assert parts > 1
    close_to(got, plain_sft_step(model, examples(), lrs[0]), atol=5e-5)


def test_a_share_of_a_batch_makes_that_share_of_the_steps(model: Path, tmp_path: Path) -> None:
    batch, found = rollouts(model), []
    for minibatches, share in ((4, 0.25), (1, 1.0), (4, 1.0)):
        config = LearnerConfig(**{**RL, "minibatches": minibatches})
        learner = Learner.start(model, config, dtype="float32", seed=3, threads=1)
        learner.rl_step(batch, share)
        found.append(saved(learner, tmp_path / f"{len(found)}"))
        learner.close()
    quarter, whole, four = found
    assert all(torch.equal(quarter[name], whole[name]) for name in whole)
    assert any(not torch.equal(four[name], whole[name]) for name in whole)


@pytest.mark.parametrize("source", ["learner", "engine"])
def test_passes_over_a_batch_are_ppo_steps_of_a_plain_loop(
    model: Path, tmp_path: Path, source: Literal["learner", "engine"]
) -> None:
    batch = rollouts(model)
    config = LearnerConfig(algorithm="dapo", lr=1e-3, warmup_steps=0, minibatches=1, epochs=3, old_logprobs=source)
    learner = Learner.start(model, config, dtype="float32", seed=3, threads=1)
    assert learner.rl_step(batch)["passes"] == config.epochs  # no token is read twice, and none is padding
    got = saved(learner, tmp_path / "m")
    learner.close()

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
    rows = batch.to_pylist()
    masks = [torch.tensor(row["mask"][1:], dtype=torch.bool) for row in rows]
    advantage, engine = (
        torch.cat([torch.tensor(row[name][1:])[mask] for row, mask in zip(rows, masks, strict=True)])
        for name in ("advantages", "logprobs")
    )
    old = engine if source == "engine" else None
    for _ in range(config.epochs):
        parts = []
        for row, mask in zip(rows, masks, strict=True):
            ids = torch.tensor(row["ids"])
            logs = lm(ids[None]).logits[0, :-1].log_softmax(-1)
            parts.append(logs.gather(1, ids[1:, None])[:, 0][mask])
        new = torch.cat(parts)
        old = new.detach() if old is None else old
        ratio = (new - old).exp()
        weight = (old - engine).exp().clamp(max=config.tis_cap)
        loss = -(weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), config.grad_clip)
        optimizer.step()
    close_to(got, {name: p.detach() for name, p in lm.named_parameters()}, atol=2e-4)


def test_training_moved_the_weights_and_the_loss_falls(learner: Learner) -> None:
    losses: list[float] = []
    config = SFTConfig(tokens=20_000, batch_tokens=800, lr=3e-3)
    summary = learner.sft(examples(), config, seed=0, on_step=lambda step: losses.append(step["loss"]))
    assert losses[0] == pytest.approx(np.log(VOCAB), rel=0.1)
    assert losses[-1] < losses[0] - 0.5
    assert 20_000 <= summary["tokens"] < 20_000 + 800
    assert summary["epochs"] == pytest.approx(summary["tokens"] / sum(len(i) for i in examples()["ids"]))


def test_a_minute_bound_ends_the_training(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=0.05)  # a clock that each look at it moves on
    monkeypatch.setattr("dreamgym.learner.learner.time", SimpleNamespace(monotonic=lambda: next(now)))
    rates: list[float] = []
    config = SFTConfig(tokens=10**9, batch_tokens=800, minutes=0.05, warmup=0.0, lr=1e-5)
    summary = learner.sft(examples(), config, seed=0, on_step=lambda step: rates.append(step["lr"]))
    assert 2.5 < summary["seconds"] < 20
    assert rates[0] > 0.9e-5
    assert rates[-1] < 0.3e-5


def test_a_loss_bound_ends_the_training_once_recent_steps_are_below_it(learner: Learner) -> None:
    losses: list[float] = []
    config = SFTConfig(tokens=10**6, batch_tokens=800, lr=3e-3, stop_loss=0.8 * np.log(VOCAB))
    learner.sft(examples(), config, seed=0, on_step=lambda step: losses.append(step["loss"]))
    below = [np.mean(losses[i - 8 : i]) < config.stop_loss for i in range(8, len(losses) + 1)]
    assert below[-1] and not any(below[:-1])


def test_recomputed_logprobs_are_those_of_the_saved_model(learner: Learner, model: Path, tmp_path: Path) -> None:
    batch = rollouts(model)
    learner.save(tmp_path / "m")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    for row, got in zip(batch.to_pylist(), learner.logprobs(batch), strict=True):
        logs = lm(torch.tensor(row["ids"])[None]).logits[0].log_softmax(-1)
        expected = [logs[i - 1, row["ids"][i]].item() for i in range(1, len(row["ids"])) if row["mask"][i]]
        assert got == pytest.approx(expected, abs=1e-4)


def test_weights_for_the_engines_are_the_saved_ones(learner: Learner, tmp_path: Path) -> None:
    whole = saved(learner, tmp_path / "m")
    for part_bytes in (10**9, 50_000):
        weights, parts = sent(learner, 7, part_bytes)
        assert (parts > 1) == (part_bytes == 50_000)
        close_to(weights, whole, atol=0.0)


def test_a_fault_while_weights_are_packed_is_told_and_the_next_time_is_whole(learner: Learner) -> None:
    def pack(named: object, version: int) -> list[str]:
        names = [name for name, _ in named]  # type: ignore[attr-defined]
        if version == 8 and any("layers.1" in name for name in names):
            raise OSError("no memory")
        return names

    with pytest.raises(EngineError, match="no memory"):
        list(learner.weights(8, pack, 50_000))
    assert len(list(learner.weights(9, pack, 50_000))) > 1


def test_other_weights_in_the_engine_stop_the_update_and_change_nothing(
    learner: Learner, model: Path, tmp_path: Path
) -> None:
    before = saved(learner, tmp_path / "a")
    rows = rollouts(model).to_pylist()
    for row in rows:
        row["logprobs"] = [-20.0 * m for m in row["mask"]]
    with pytest.raises(WeightSyncError, match="engine and learner logprobs differ by"):
        learner.rl_step(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA))
    close_to(saved(learner, tmp_path / "b"), before, atol=0.0)


def test_an_update_names_its_trajectories_in_the_log_of_the_session(learner: Learner, model: Path) -> None:
    rows = rollouts(model).to_pylist()
    for number, (row, logprobs) in enumerate(zip(rows, learner.logprobs(rollouts(model)), strict=True)):
        targets = iter(logprobs)
        row["logprobs"] = [next(targets) if m else 0.0 for m in row["mask"]]
        row["trajectory"] = f"episode-{number}"
    assert learner.rl_step(pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA.append(TRAJECTORY)))["gap_max"] < 1e-3
    context = ray.get_runtime_context()
    files = Path(context.get_temp_dir(), context.get_session_name(), "logs").glob("worker-*.err")
    told = "".join(file.read_text(errors="replace") for file in files)
    for row in rows:
        assert f"INFO dreamgym.learner.worker learned from trajectory={row['trajectory']} step=" in told


@ray.remote(num_cpus=0)
class Bare:
    """An actor that opens nothing: what listens in its process is Ray's."""

    def pid(self) -> int:
        return os.getpid()


def test_a_worker_listens_at_its_nodes_address_alone(learner: Learner) -> None:
    bare = Bare.remote()
    rays = _listening(psutil.Process(ray.get(bare.pid.remote())))
    children = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    workers = [p for p in children if "LearnerWorker" in " ".join(p.cmdline())]
    assert workers
    for worker in workers:
        ours = Counter(at.ip for at in _listening(worker)) - Counter(at.ip for at in rays)
        assert set(ours) <= {ray.util.get_node_ip_address(), "127.0.0.1", "::1"}


def _listening(process: psutil.Process) -> list[Any]:
    return [c.laddr for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]


def test_bad_batches_are_named(learner: Learner, model: Path, tmp_path: Path) -> None:
    long = pa.table({"ids": [[1] * 9000], "weights": [[1.0] * 9000]}, schema=SFT_SCHEMA)
    with pytest.raises(DataError, match=r"9000 tokens, above learner\.token_budget=8192"):
        learner.sft(long, SFT, seed=0)
    with pytest.raises(DataError, match="holds no row"):
        learner.rl_step(rollouts(model).slice(0, 0))
    with pytest.raises(DataError, match="column 'mask' must be"):
        learner.rl_step(examples().combine_chunks().to_batches()[0])
    with pytest.raises(DataError, match="no learner checkpoint"):
        learner.load_checkpoint(tmp_path / "nothing")


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded for training"):
        Learner.start(tmp_path, LearnerConfig(), dtype="float32", seed=0)


def test_a_missed_deadline_and_a_dead_worker_are_engine_errors(model: Path) -> None:
    learner = Learner.start(model, LearnerConfig(), dtype="float32", seed=0, threads=1)
    learner.config = LearnerConfig(timeout_s=0.001)
    with pytest.raises(EngineError, match=r"did not answer within 0\.001 s; raise learner\.timeout_s"):
        learner.sft(examples(), SFT, seed=0)
    learner.config = LearnerConfig()
    ray.kill(learner._workers[0])
    with pytest.raises(EngineError, match="a learner worker died"):
        learner.sft(examples(), SFT, seed=0)
