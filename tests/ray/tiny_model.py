"""What the learner's tests train: two layers with random weights, the bytes for a vocabulary, and rollouts of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.learner.batches import RL_SCHEMA
from dreamgym.learner.learner import Learner
from dreamgym.models.chat import load_chat
from dreamgym.models.checkpoint import prepare_model

Weights = dict[str, torch.Tensor]

SHAPE = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, context=128)
VOCAB = 256


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A checkpoint in float32, in a folder of its own."""
    return prepare_model(ModelConfig(scratch=SHAPE, dtype="float32"), folder, ["state: go north\n"] * 20, seed)


def rollouts(model: Path, rows: int = 13) -> pa.RecordBatch:
    """Sequences of uneven length with the model's own logprobs, a little disturbed."""
    rng = np.random.default_rng(1)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    batch = []
    for n in rng.integers(4, 60, rows):
        ids = rng.integers(0, VOCAB, n)
        mask = np.concatenate([[0, 1], rng.integers(0, 2, n - 2)])
        logs = lm(torch.tensor(ids)[None]).logits[0].log_softmax(-1).detach().numpy()
        logprobs = np.concatenate([[0], logs[np.arange(n - 1), ids[1:]]]) + rng.normal(0, 0.05, n)
        row = {"ids": ids, "mask": mask, "logprobs": logprobs * mask, "advantages": rng.normal() * mask}
        batch.append({name: value.tolist() for name, value in row.items()})
    return pa.RecordBatch.from_pylist(batch, schema=RL_SCHEMA)


def brief(model: Path) -> Path:
    """The model with half of its tokens an end of the answer: what is cut off at `max_tokens` is never acted on."""
    lm = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    with torch.no_grad():
        lm.model.embed_tokens.weight[:, 0] = 8.0  # so large that the last norm leaves it at about 8 in every place
        lm.lm_head.weight[:, 0] = 0.0
        lm.lm_head.weight[load_chat(model).end_id, 0] = 6.0 / 8
    lm.save_pretrained(model)
    return model


def saved(learner: Learner, path: Path) -> Weights:
    learner.save(path)
    return load_file(path / "model.safetensors")
