"""PPO on real DeepSpeed workers: a plain loop's steps for any split; the critic learns, resumes, and stays at home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from safetensors.torch import load_file
from tiny_model import SHAPE, VOCAB
from transformers import AutoModelForCausalLM

from dreamgym.config import LearnerConfig
from dreamgym.learner.batches import REWARD_SCHEMA
from dreamgym.learner.learner import Learner
from dreamgym.learner.worker import LearnerWorker

pytestmark = pytest.mark.usefixtures("local_ray")

PPO: dict[str, Any] = {"algorithm": "ppo", "warmup_steps": 0, "lr": 1e-3, "critic_lr": 2e-3, "max_logprob_gap": 5.0}
ORACLE = {"minibatches": 1, "epochs": 3, "gamma": 0.97, "gae_lambda": 0.9, "value_clip": 0.02, "kl_coef": 0.1}


def start(model: Path, dtype: str = "float32", **changes: Any) -> Learner:
    return Learner.start(model, LearnerConfig(**{**PPO, **changes}), dtype=dtype, seed=3, threads=1)


def rollouts(model: Path, rows: int = 9) -> pa.RecordBatch:
    """Episodes of a few turns with rewards in all of them; every third one was cut in a state that it has read."""
    rng = np.random.default_rng(1)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    batch = []
    for number in range(rows):
        mask: list[int] = []
        rewards: list[float] = []
        for _ in range(rng.integers(1, 5)):
            read, sampled = rng.integers(1, 5), rng.integers(1, 5)
            mask += [0] * read + [1] * sampled
            rewards += [0.0] * (read + sampled - 1) + [rng.normal()]
        if number % 3 == 0:
            mask, rewards = [*mask, 0, 0], [*rewards, 0.0, 0.0]
        ids = rng.integers(0, VOCAB, len(mask))
        logs = lm(torch.tensor(ids)[None]).logits[0].log_softmax(-1).detach().numpy()
        logprobs = np.concatenate([[0], logs[np.arange(len(ids) - 1), ids[1:]]]) + rng.normal(0, 0.05, len(ids))
        batch.append({"ids": ids, "mask": mask, "logprobs": logprobs * mask, "rewards": rewards})
    return pa.RecordBatch.from_pylist([{k: list(v) for k, v in r.items()} for r in batch], schema=REWARD_SCHEMA)


class Plain:
    """The oracle: PPO in bare PyTorch, row by row and token by token, everything of a batch in one step."""

    def __init__(self, model: Path, config: LearnerConfig) -> None:
        self.config = config
        self.lm, self.frozen, trunk = (
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager")
            for _ in range(3)
        )
        self.trunk, self.head = trunk.model, torch.nn.Linear(SHAPE.hidden, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.critic = [*self.trunk.parameters(), *self.head.parameters()]
        self.optimizers = [
            torch.optim.AdamW(group, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
            for group, lr in ((self.lm.parameters(), config.lr), (self.critic, config.critic_lr))
        ]

    def logprobs(self, lm: Any, row: dict[str, Any]) -> torch.Tensor:
        ids = torch.tensor(row["ids"])
        logs = lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        return logs[torch.tensor(row["mask"][1:], dtype=torch.bool)]

    def values(self, row: dict[str, Any]) -> torch.Tensor:
        """The value of every prefix."""
        return self.head(self.trunk(torch.tensor(row["ids"])[None]).last_hidden_state[0])[:, 0]

    def steps(self, row: dict[str, Any], rewards: list[float]) -> tuple[list[int], list[float], list[int]]:
        """Of each step the place of the prefix that it is taken from, its reward and its tokens."""
        places, summed, sizes = [], [], []
        taken = iter(rewards)
        for place, sampled in enumerate(row["mask"]):
            if not sampled:
                continue
            reward = next(taken)
            if self.config.gae == "turn" and row["mask"][place - 1]:
                summed[-1] += reward
                sizes[-1] += 1
            else:
                places.append(place - 1)
                summed.append(reward)
                sizes.append(1)
        return places, summed, sizes

    def step(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        config = self.config
        old, returns, before, prefixes, raw = [], [], [], [], []
        with torch.no_grad():
            for row in rows:
                old.append(self.logprobs(self.lm, row))
                kl = old[-1] - self.logprobs(self.frozen, row)
                sampled = [r for r, m in zip(row["rewards"], row["mask"], strict=True) if m]
                rewards = [r - config.kl_coef * k for r, k in zip(sampled, kl.tolist(), strict=True)]
                places, summed, sizes = self.steps(row, rewards)
                all_values = self.values(row).double().tolist()
                values = [all_values[p] for p in places] + [0.0 if row["mask"][-1] else all_values[-1]]
                made = []
                for t in range(len(summed)):
                    decay = config.gamma * config.gae_lambda
                    deltas = [summed[u] + config.gamma * values[u + 1] - values[u] for u in range(t, len(summed))]
                    made.append(sum(decay**u * delta for u, delta in enumerate(deltas)))
                before.append(torch.tensor(values[:-1]))
                returns.append(torch.tensor([a + v for a, v in zip(made, values, strict=False)]))
                prefixes.append(places)
                raw += [a for a, size in zip(made, sizes, strict=True) for _ in range(size)]
        advantage = torch.tensor(raw, dtype=torch.float64)
        advantage = ((advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-6)).float()
        was, target, base = torch.cat(old), torch.cat(returns).float(), torch.cat(before).float()
        engine = torch.cat(
            [torch.tensor([p for p, m in zip(r["logprobs"], r["mask"], strict=True) if m]) for r in rows]
        )
        told = {"value_mean": base.mean().item(), "return_mean": target.mean().item(), "value_loss": 0.0}
        told["value_explained"] = 1 - ((target - base).var() / target.var()).item()
        for _ in range(config.epochs):
            ratio = (torch.cat([self.logprobs(self.lm, row) for row in rows]) - was).exp()
            weight = (was - engine).exp().clamp(max=config.tis_cap)
            loss = -(weight * torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)).mean()
            now = torch.cat([self.values(row)[places] for row, places in zip(rows, prefixes, strict=True)])
            held = torch.clamp(now, base - config.value_clip, base + config.value_clip)
            value_loss = torch.maximum((now - target) ** 2, (held - target) ** 2).mean() / 2
            for optimizer, part, weights in zip(
                self.optimizers, (loss, value_loss), (list(self.lm.parameters()), self.critic), strict=True
            ):
                optimizer.zero_grad()
                part.backward()
                torch.nn.utils.clip_grad_norm_(weights, config.grad_clip)
                optimizer.step()
            told["value_loss"] += value_loss.item() / config.epochs
        return told


@pytest.mark.parametrize(
    "changes",
    [
        {"gae": "token", "zero_stage": 0},
        {"gae": "turn", "workers": 2, "token_budget": 64, "zero_stage": 3},
        pytest.param({"gae": "token", "workers": 2, "token_budget": 70, "zero_stage": 2}, marks=pytest.mark.slow),
        pytest.param({"gae": "turn", "gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_updates_are_those_of_a_plain_loop_however_they_are_split(
    model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    batch = rollouts(model)
    learner = start(model, **ORACLE, **changes)
    plain = Plain(model, learner.config)
    for _ in range(2):  # the second says what the first made of the critic
        got, expected = learner.rl_step(batch), plain.step(batch.to_pylist())
        assert {name: got[name] for name in expected} == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert 0 < got["value_clip_frac"] < 1
    learner.save(tmp_path / "m")
    learner.close()
    saved = load_file(tmp_path / "m" / "model.safetensors")
    weights = dict(plain.lm.named_parameters())
    assert saved.keys() == weights.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, weights[name].detach(), atol=5e-4, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_the_critic_learns_what_a_state_is_worth_and_goes_on_after_a_resume(model: Path, tmp_path: Path) -> None:
    """One first word always wins, one never, and one half the time: 2/3 of the variance can be told."""
    rows = []
    for word, wins in ((10, (1, 1)), (11, (0, 0)), (12, (1, 0))):
        for reward in wins * 4:
            rows.append(
                {"ids": [word, 20, 21, 22, 23], "mask": [0, 1, 1, 0, 1], "logprobs": [0.0, -5.5, -5.5, 0, -5.5]}
            )
            rows[-1]["rewards"] = [0, 0, 0, 0, reward]
    batch = pa.RecordBatch.from_pylist(rows, schema=REWARD_SCHEMA)
    first = start(model, lr=1e-9, critic_lr=3e-3, minibatches=1)
    assert first.rl_step(batch)["value_mean"] == 0.0
    for _ in range(40):
        first.rl_step(batch)
    first.save_checkpoint(tmp_path / "checkpoint")
    expected = first.rl_step(batch)
    again = first.rl_step(batch)
    (part,) = first.weights(1, lambda named, version: [name for name, _ in named])
    names = ray.get(part)
    first.close()
    assert expected["value_explained"] == pytest.approx(2 / 3, abs=0.02)
    assert expected["value_mean"] == pytest.approx(0.5, abs=0.03)
    assert names == [name for name, _ in AutoModelForCausalLM.from_pretrained(model).named_parameters()]
    second = start(model, lr=1e-9, critic_lr=3e-3, minibatches=1)
    second.load_checkpoint(tmp_path / "checkpoint")
    for before in (expected, again):
        metrics = second.rl_step(batch)
        assert {n: v for n, v in metrics.items() if n != "seconds"} == {n: before[n] for n in metrics if n != "seconds"}

    def optimisers(worker: LearnerWorker) -> list[float]:
        """Of policy and critic, the steps made, and the largest number in the state of the optimiser."""
        found: list[float] = []
        for engine in (worker._engine, worker._critic._engine):
            states = [value for state in engine.optimizer.optimizer.state.values() for value in state.values()]
            found += [engine.global_steps, max(float(torch.as_tensor(value).abs().max()) for value in states)]
        return found

    for momentum in (True, False):
        second.load_checkpoint(tmp_path / "checkpoint", momentum)
        told = ray.get(second._workers[0].__ray_call__.remote(optimisers))
        assert told == ([41, 41, 41, 41] if momentum else [0, 0, 0, 0])
    second.close()
