"""Packing loses nothing, and a packed forward pass is the forward pass of each sequence alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import varlen
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
)

from dreamgym.errors import DataError, ModelError
from dreamgym.learner import network, packing
from dreamgym.learner.batches import RL_SCHEMA, Columns
from dreamgym.learner.packing import pack, register_attention

TINY = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 200), st.integers(1, 4))
def test_every_sequence_once_within_budget_and_equally_many_bins_a_worker(
    lengths: list[int], budget: int, workers: int
) -> None:
    bins = pack(lengths, budget, workers)
    assert sorted(index for part in bins for index in part) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in part) <= budget for part in bins)
    assert len(bins) % workers == 0
    assert bins == pack(lengths, budget, workers)


@given(st.lists(st.integers(1, 50), min_size=8, max_size=60), st.integers(1, 4))
def test_workers_get_nearly_equal_loads(lengths: list[int], workers: int) -> None:
    loads = [sum(lengths[i] for i in part) for part in pack(lengths, budget=10_000, workers=workers)]
    assert len(loads) == workers
    assert max(loads) - min(loads) <= max(lengths)


def test_a_sequence_above_the_budget_is_refused() -> None:
    with pytest.raises(DataError, match=r"101 tokens, above learner\.token_budget=100"):
        pack([5, 101], 100)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_packed_logprobs_are_those_of_each_sequence_alone(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is transformers' own eager attention, one unpadded sequence at a time."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=97, num_key_value_heads=kv_heads, **shape)
    lm = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(5)
    batch = _random_batch([7, 1, 33, 12])
    expected = [_alone(lm, row, temperature=0.7) for row in batch.to_pylist()]
    lm.set_attn_implementation(register_attention())
    columns = Columns(batch, RL_SCHEMA, select="mask")
    packed = columns.micro_batch([2, 0, 3, 1])
    model = network.LogprobModel(lm, 0.7, entropy_gradient=False)
    whole, entropy = model(packed)
    torch.testing.assert_close(whole, torch.cat([expected[i] for i in (2, 0, 3, 1)]), atol=2e-5, rtol=1e-5)
    monkeypatch.setitem(network.CHUNK_LOGITS, "cpu", 97 * 5)
    chunked, chunked_entropy = model(packed)
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(chunked_entropy, entropy)
    whole_grad = torch.autograd.grad(whole.sum(), lm.lm_head.weight)
    chunked_grad = torch.autograd.grad(chunked.sum(), lm.lm_head.weight)
    torch.testing.assert_close(whole_grad, chunked_grad, atol=1e-4, rtol=1e-4)


def test_attention_that_is_more_than_causal_is_refused() -> None:
    columns = Columns(_random_batch([7, 12]), RL_SCHEMA, select="mask")
    for config, reason in (
        (MistralConfig(num_key_value_heads=2, sliding_window=8, **TINY), "window of 8"),
        (Gemma2Config(num_key_value_heads=2, head_dim=16, **TINY), "caps its attention"),
    ):
        lm = AutoModelForCausalLM.from_config(config, attn_implementation=register_attention())
        model = network.LogprobModel(lm, 1.0, entropy_gradient=False)
        with pytest.raises(ModelError, match=reason):
            model(columns.micro_batch([0, 1]))
    mistral = MistralConfig(num_key_value_heads=2, sliding_window=12, **TINY)
    lm = AutoModelForCausalLM.from_config(mistral, attn_implementation=register_attention())
    assert len(network.LogprobModel(lm, 1.0, entropy_gradient=False)(columns.micro_batch([0, 1]))[0])


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(num_key_value_heads=2, head_dim=16, **TINY), "final_logit_softcapping"),
        (GraniteConfig(num_key_value_heads=2, logits_scaling=8.0, **TINY), "logits_scaling"),
        (CohereConfig(num_key_value_heads=2, **TINY), "logit_scale"),
        (PhiConfig(num_key_value_heads=2, **TINY), "a bias in its output head"),
        (Lfm2Config(num_key_value_heads=2, layer_types=["conv"], **TINY), "layers of the kind conv"),
    ],
)
def test_a_model_that_has_more_is_refused(config: PreTrainedConfig, reason: str, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=reason):
        network.load_network(str(tmp_path), torch.float32, temperature=1.0)


def test_streams_follow_their_tokens_and_first_tokens_are_no_targets() -> None:
    rows = {"ids": [[1, 2, 3], [4, 5]], "mask": [[1, 0, 1], [0, 1]]}
    rows |= {"logprobs": [[0.0, 0.0, -3.0], [0.0, -5.0]], "advantages": [[0.0, 0.0, 30.0], [0.0, 50.0]]}
    columns = Columns(pa.table(rows, schema=RL_SCHEMA), RL_SCHEMA, select="mask")
    batch = columns.micro_batch([1, 0])
    assert batch.ids.tolist() == [[4, 5, 1, 2, 3]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 2]]
    assert batch.index.tolist() == [0, 3]
    assert batch.targets.tolist() == [5, 3]
    assert batch.sequence.tolist() == [0, 1]
    assert batch.streams["logprobs"].tolist() == [-5.0, -3.0]
    assert batch.streams["advantages"].tolist() == [50.0, 30.0]
    assert columns.target_sum([0, 1]) == 2.0
    assert columns.sequence_count([0, 1]) == 2


def test_a_sliced_batch_reads_its_own_rows() -> None:
    batch = _random_batch([3, 4, 5, 6])
    columns = Columns(batch.slice(2, 2), RL_SCHEMA, select="mask")
    rows = batch.column("ids").to_pylist()
    assert columns.micro_batch([0, 1]).ids[0].tolist() == [*rows[2], *rows[3]]


def test_a_wrong_column_is_named() -> None:
    batch = _random_batch([3]).drop_columns(["advantages"])
    with pytest.raises(DataError, match="'advantages' must be list<item: float>, but is missing"):
        Columns(batch, RL_SCHEMA, select="mask")


def test_columns_of_different_lengths_are_refused() -> None:
    rows = {"ids": [[1, 2]], "mask": [[0, 1]], "logprobs": [[0.0]], "advantages": [[0.0, 1.0]]}
    with pytest.raises(DataError, match="'logprobs' and 'ids' differ in length"):
        Columns(pa.table(rows, schema=RL_SCHEMA), RL_SCHEMA, select="mask")


def _random_batch(lengths: list[int]) -> pa.RecordBatch:
    torch.manual_seed(1)
    rows = [
        {
            "ids": torch.randint(0, 97, (n,)).tolist(),
            "mask": [0] + [int(x) for x in torch.rand(n - 1) < 0.6],
            "logprobs": [-1.0] * n,
            "advantages": [1.0] * n,
        }
        for n in lengths
    ]
    return pa.RecordBatch.from_pylist(rows, schema=RL_SCHEMA)


def _alone(lm: LlamaForCausalLM, row: dict[str, list[int]], temperature: float) -> torch.Tensor:
    lm.set_attn_implementation("eager")
    logits = lm(torch.tensor([row["ids"]])).logits[0].double() / temperature
    values = [logits[i - 1].log_softmax(-1)[row["ids"][i]] for i in range(1, len(row["ids"])) if row["mask"][i]]
    return torch.stack(values).float() if values else torch.zeros(0)


def by_hand(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What `varlen_attn` documents, where the kernel cannot run: causal softmax attention a sequence."""
    assert window_size == (-1, 0) and cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k
    assert max_q == max_k == int(cu_seq_q.diff().max()) and enable_gqa == (query.shape[1] != key.shape[1])
    key, value = (heads.repeat_interleave(query.shape[1] // key.shape[1], 1) for heads in (key, value))
    parts = []
    for start, end in pairwise(cu_seq_q.tolist()):
        scores = torch.einsum("qhd,khd->hqk", query[start:end], key[start:end]) * (scale or query.shape[-1] ** -0.5)
        ahead = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(ahead, -torch.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, value[start:end]))
    return torch.cat(parts)


@pytest.mark.parametrize("kernel", ["varlen", "expanded"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_each_kernel_attends_alike(
    kernel: str, kv_heads: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    lengths = [7, 1, 33, 12]
    query, key, value = (torch.randn(1, heads, sum(lengths), 8) for heads in (4, kv_heads, kv_heads))
    plain, _ = packing.packed_attention(torch.nn.Module(), query, key, value, None, scaling, lengths)
    monkeypatch.setattr(packing, "kernel_for", lambda query: kernel)
    monkeypatch.setattr(varlen, "varlen_attn", by_hand)
    other, _ = packing.packed_attention(torch.nn.Module(), query, key, value, None, scaling, lengths)
    assert other.shape == plain.shape == (1, sum(lengths), 4, 8)
    torch.testing.assert_close(other, plain)


def test_the_call_is_one_that_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without data its own operator says what comes out."""
    monkeypatch.setattr(packing, "kernel_for", lambda query: "varlen")
    shapes = ((4, 53), (2, 53), (2, 53))
    query, key, value = (torch.empty(1, heads, n, 64, device="meta", dtype=torch.bfloat16) for heads, n in shapes)
    out, _ = packing.packed_attention(torch.nn.Module(), query, key, value, None, None, (7, 1, 33, 12))
    assert (out.shape, out.dtype) == ((1, 53, 4, 64), torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "head", "capability", "kernel"),
    [
        (torch.bfloat16, 128, (8, 0), "varlen"),
        (torch.float16, 64, (9, 0), "varlen"),
        (torch.bfloat16, 100, (8, 0), "plain"),
        (torch.bfloat16, 512, (8, 0), "plain"),
        (torch.float16, 64, (7, 5), "plain"),
        (torch.float32, 64, (9, 0), "expanded"),
    ],
)
def test_a_gpu_gets_the_kernel_that_it_has(
    dtype: torch.dtype, head: int, capability: tuple[int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = torch.empty(1, 4, 9, head, dtype=dtype)
    assert packing.kernel_for(query) == "plain"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype, shape=query.shape, device="cuda:0")
    assert packing.kernel_for(on_gpu) == kernel  # type: ignore[arg-type]
