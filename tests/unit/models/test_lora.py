"""Adapters: they alone are trained, merged they are the same model, and without them it is the model of before."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from dreamgym.config import LoRAConfig, ModelConfig, ScratchModel
from dreamgym.errors import ModelError, WeightSyncError
from dreamgym.inference.adapters import adapter_shapes, nothing_added, unpack_adapter
from dreamgym.inference.one_adapter import OneAdapter
from dreamgym.inference.weight_transfer import pack_weights
from dreamgym.learner.batches import SFT_SCHEMA, Columns, MicroBatch
from dreamgym.learner.network import LogprobModel, load_network
from dreamgym.models.checkpoint import prepare_model
from dreamgym.models.lora import WithoutAdapters, add_adapters, parts_of, sent_weights, whole_weights

RANK = 3


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, context=128, tied=request.param)
    config = ModelConfig(scratch=shape, dtype="float32")
    return prepare_model(config, tmp_path_factory.mktemp("model") / "m", ["state: go north\n"] * 20, 0)


def adapted(folder: Path, **settings: Any) -> LogprobModel:
    network = load_network(str(folder), torch.float32, temperature=1.0)
    add_adapters(network.lm, LoRAConfig(rank=RANK, alpha=6, **settings))
    return network


def row() -> MicroBatch:
    ids = np.random.default_rng(0).integers(0, 256, 40).tolist()
    return Columns(
        pa.table({"ids": [ids], "weights": [[1.0] * 40]}, schema=SFT_SCHEMA), SFT_SCHEMA, "weights"
    ).micro_batch([0])


def train(network: LogprobModel, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        network(row())[0].mean().backward()
        optimizer.step()


def test_new_adapters_change_nothing_and_are_all_that_is_trained(folder: Path) -> None:
    before, network = load_network(str(folder), torch.float32, temperature=1.0), adapted(folder)
    assert torch.equal(network(row())[0], before(row())[0])
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    linear = [m for m in before.lm.model.modules() if isinstance(m, torch.nn.Linear)]
    assert len(trained) == 2 * len(linear)


def test_merged_weights_are_the_same_model_under_the_names_of_the_checkpoint(folder: Path) -> None:
    plain, network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), adapted(folder)
    before = {name: p.detach().clone() for name, p in plain.named_parameters()}
    train(network)
    merged = dict(whole_weights(network.lm))
    assert merged.keys() == before.keys()
    ranks = {
        name: int(torch.linalg.matrix_rank(merged[name] - before[name], atol=1e-4))
        for name in before
        if merged[name].ndim == 2
    }
    assert {rank for name, rank in ranks.items() if "_proj" in name} == {RANK}
    assert all(torch.equal(merged[name], before[name]) for name in before if "_proj.weight" not in name)
    plain.load_state_dict(merged, strict=False)
    batch = row()
    logs = plain(batch.ids).logits[0].log_softmax(-1)[batch.index].gather(1, batch.targets[:, None])[:, 0]
    mine = network(batch)[0]
    torch.testing.assert_close(mine, logs, atol=1e-4, rtol=0)
    assert (mine - load_network(str(folder), torch.float32, 1.0)(batch)[0]).abs().max() > 0.1


def test_without_adapters_it_is_the_model_of_before_and_with_them_again_the_trained_one(folder: Path) -> None:
    before, network = load_network(str(folder), torch.float32, temperature=1.0), adapted(folder)
    train(network)
    trained = network(row())[0]
    assert torch.equal(WithoutAdapters(network)(row())[0], before(row())[0])
    assert torch.equal(network(row())[0], trained)


def test_targets_choose_the_layers(folder: Path) -> None:
    trained = [name for name, p in adapted(folder, targets=["q_proj"]).named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all("q_proj" in name for name in trained)


@pytest.mark.parametrize("target", ["w_proj", "lm_head", "embed_tokens"])
def test_a_layer_that_cannot_have_adapters_is_named(folder: Path, target: str) -> None:
    with pytest.raises(ModelError, match=r"policy\.lora\.targets: "):
        adapted(folder, targets=[target])


def test_no_part_ends_within_a_layer() -> None:
    """vLLM loads a layer once all of it is there, and keeps what came before."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm = Qwen2ForCausalLM(Qwen2Config(vocab_size=97, num_key_value_heads=2, **shape))
    projection = "model.layers.0.self_attn.q_proj"
    for adapters, halves in ((False, {"weight", "bias"}), (True, {"lora_A.default.weight", "lora_B.default.weight"})):
        if adapters:
            add_adapters(lm, LoRAConfig(rank=RANK, alpha=6))
        whole = {f"{projection}.{half}" for half in halves}
        assert whole <= {name for name, _ in lm.named_parameters()}
        assert sum(whole <= part for part in parts_of(lm, 1)) == 1


@pytest.mark.parametrize("adapters", [True, False])
def test_parts_are_all_that_engines_need_in_order(folder: Path, adapters: bool) -> None:
    network = adapted(folder) if adapters else load_network(str(folder), torch.float32, temperature=1.0)
    needed = {n: p for n, p in network.lm.named_parameters() if ".lora_" in n or not adapters}
    for part_bytes, fewest in ((1, 14), (10_000, 2), (10**9, 1)):
        parts = parts_of(network.lm, part_bytes)
        assert len(parts) >= fewest and (len(parts) == 1) == (fewest == 1)
        found = [pair for names in parts for pair in sent_weights(network.lm, names)]
        assert [name for name, _ in found] == [name.replace(".default", "") for name in needed]
        assert all(torch.equal(tensor, p) for (_, tensor), p in zip(found, needed.values(), strict=True))
        sizes = [sum(needed[name].nbytes for name in names) for names in parts]
        assert all(size >= part_bytes for size in sizes[:-1])


def test_an_engine_knows_the_names_and_shapes_of_the_learners_adapters(folder: Path) -> None:
    config = LoRAConfig(rank=RANK, alpha=6, targets=["q_proj", "down_proj"])
    network = load_network(str(folder), torch.float32, temperature=1.0)
    add_adapters(network.lm, config)
    sent = sent_weights(network.lm, parts_of(network.lm, 10**9)[0])
    assert adapter_shapes(folder, config) == {name: tuple(tensor.shape) for name, tensor in sent}


def test_other_adapters_than_the_engines_and_damaged_ones_are_refused(folder: Path) -> None:
    shapes = adapter_shapes(folder, LoRAConfig(rank=RANK, alpha=6))
    payload = pack_weights(nothing_added(shapes).items(), version=1)
    assert unpack_adapter([payload], shapes).keys() == shapes.keys()
    with pytest.raises(WeightSyncError, match="checksum"):
        unpack_adapter([dataclasses.replace(payload, checksum=payload.checksum ^ 1)], shapes)
    name = min(shapes)
    with pytest.raises(WeightSyncError, match=f"'{name}'"):
        unpack_adapter([payload], {other: shape for other, shape in shapes.items() if other != name})
    with pytest.raises(WeightSyncError, match=f"'{name}'"):
        unpack_adapter([payload], {**shapes, name: (1, 2)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_adapter_for_all_tokens_is_what_vllm_computes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    widths, rank, inputs = (6, 4, 4), 8, 16
    x, y = torch.randn(5, inputs).to(dtype), torch.randn(5, sum(widths)).to(dtype)
    a = tuple(torch.randn(1, 1, rank, inputs).to(dtype) for _ in widths)
    b = tuple(torch.randn(1, 1, width, rank).to(dtype) for width in widths)
    theirs, ours, wrapper = y.clone(), y.clone(), PunicaWrapperCPU(8, 8, "cpu")
    wrapper.is_prefill, wrapper._token_lora_indices, wrapper.indices_len[0] = False, torch.zeros(8, dtype=torch.long), 5
    wrapper.add_lora_linear(theirs, x, a, b, 1.0, widths)
    OneAdapter().add_lora_linear(ours, x, a, b, 1.0, widths)
    torch.testing.assert_close(ours, theirs, atol=1e-5 if dtype == torch.float32 else 0.25, rtol=0)
    assert (ours - y).abs().max() > 1
    ours_too = inspect.signature(OneAdapter.add_lora_linear).parameters
    vllms = inspect.signature(PunicaWrapperCPU.add_lora_linear).parameters
    assert [*ours_too][:-1] == [name for name, p in vllms.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
