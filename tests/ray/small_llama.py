"""What the tests of engines serve: a small random Llama, prompts, and how far engine and model are apart."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dreamgym.config import EngineConfig, ModelConfig
from dreamgym.inference.engine import Generation
from dreamgym.inference.pool import Request
from tests.waiting import HANG_S

VOCABULARY = 512
HALF = ModelConfig(dtype="bfloat16")
"""The precision of `llama`, whatever suits this machine."""
ENGINE = EngineConfig(max_model_len=512, kv_cache_gib=0.2, timeout_s=HANG_S)


def llama(seed: int, *, tied: bool, dtype: torch.dtype = torch.bfloat16) -> LlamaForCausalLM:
    """A small random Llama; any two seeds differ by some 0.5 nats a token, so that a stale weight shows."""
    torch.manual_seed(seed)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(shape).to(dtype).eval()


def requests(count: int, length: int = 40, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, VOCABULARY, length).tolist(), index) for index in range(count)]


def gaps(
    model: LlamaForCausalLM, batch: list[Request], found: list[Generation], temperature: float = 1.0
) -> np.ndarray:
    """|engine - model| in nats for every sampled token, the model's recomputed from the recorded ids."""
    differences = []
    for (prompt, _), answer in zip(batch, found, strict=True):
        ids = torch.tensor([prompt + answer.ids])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
        mine = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        differences.append((mine - torch.tensor(answer.logprobs)).abs().numpy())
    return np.concatenate(differences)


def agree(differences: np.ndarray) -> bool:
    return bool((differences <= 0.05).mean() >= 0.999 and differences.mean() <= 0.01)
