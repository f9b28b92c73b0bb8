"""Estimates of memory against what PyTorch and DeepSpeed really take: weights, activations, head, optimiser states."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from memory import Alive
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config

from dreamgym.config import LearnerConfig, LoRAConfig, ModelConfig, ScratchModel
from dreamgym.learner import network
from dreamgym.learner.batches import MicroBatch
from dreamgym.learner.network import LogprobModel
from dreamgym.learner.packing import register_attention
from dreamgym.models.checkpoint import prepare_model
from dreamgym.models.lora import add_adapters
from dreamgym.models.scratch import scratch_config
from dreamgym.planning.memory import Trained, activations, engine, head, kv_bytes, layer_activations, states
from dreamgym.planning.shapes import Shape, adapter_weights, shape_of

MODELS = Path(__file__).parents[2] / "models"
GB = 1e9


def shape(name: str) -> Shape:
    return shape_of(ModelConfig(source=str(MODELS / name)), "policy.model")


# Counts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [("llama-3.2-3b", 3_212_749_824), ("llama-3.1-8b", 8_030_261_248), ("qwen2.5-7b", 7_615_616_512)],
)
def test_published_models_have_their_published_number_of_weights(name: str, weights: int) -> None:
    assert shape(name).weights == weights


@pytest.mark.parametrize("tied", [True, False])
def test_a_scratch_model_has_as_many_weights_as_the_one_that_is_made(tmp_path: Path, tied: bool) -> None:
    config = ModelConfig(scratch=ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, vocab=320, tied=tied))
    made = AutoModelForCausalLM.from_pretrained(
        prepare_model(config, tmp_path / "model", ["state: go north\n"] * 20, 0)
    )
    vocab = made.config.vocab_size  # the tokenizer of so few texts is smaller than asked for
    assert vocab <= 320
    config.scratch.vocab = max(300, vocab)
    counted = shape_of(config, "world.model").weights - (config.scratch.vocab - vocab) * 64 * (1 if tied else 2)
    assert counted == sum(p.numel() for p in made.parameters())


def test_adapters_are_counted_as_peft_makes_them() -> None:
    config = scratch_config(ScratchModel(layers=2, hidden=64, intermediate=96, heads=2))
    lm = AutoModelForCausalLM.from_config(config)
    add_adapters(lm, LoRAConfig(rank=4))
    counted = adapter_weights(config, LoRAConfig(rank=4))
    assert counted == sum(p.numel() for p in lm.parameters() if p.requires_grad) > 0
    assert adapter_weights(config, LoRAConfig(rank=1)) * 4 == counted


# The table of ZeRO stages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "workers", "gb", "in_step"),
    [(1, 4, 88, 88), (1, 8, 76, 76), (2, 4, 48, 56), (2, 8, 32, 36), (3, 4, 36, 36), (3, 8, 18, 18)],
)
def test_states_of_an_8b_model_are_those_of_the_table(stage: int, workers: int, gb: float, in_step: float) -> None:
    model = Trained(shape("llama-3.1-8b"), "adamw", "bfloat16")
    parts, host, step = states(model, LearnerConfig(zero_stage=stage, workers=workers), gpu=True)
    assert sum(parts.values()) / GB == pytest.approx(gb, rel=0.02)
    assert (sum(parts.values()) + step) / GB == pytest.approx(in_step, rel=0.02)
    assert not host


def test_offload_moves_the_optimiser_to_the_host_and_adapters_need_next_to_none() -> None:
    whole = Trained(shape("llama-3.1-8b"), "adamw", "bfloat16")
    parts, host, _ = states(whole, LearnerConfig(zero_stage=2, workers=4, offload=True), gpu=True)
    assert sum(parts.values()) == 2 * whole.shape.weights
    assert sum(host.values()) == 16 * whole.shape.weights / 4
    adapted = Trained(whole.shape, "adamw", "bfloat16", adapters=40_000_000)
    parts, _, _ = states(adapted, LearnerConfig(zero_stage=1, workers=4), gpu=True)
    assert sum(parts.values()) == pytest.approx(2 * whole.shape.weights + 40e6 * (8 + 12 / 4))


STATES = """
    import json, os, sys
    import torch
    sys.path.insert(0, {tests!r})
    from memory import Alive
    from transformers import LlamaConfig, LlamaForCausalLM
    from dreamgym.config import LearnerConfig
    from dreamgym.learner.engines import import_deepspeed, initialize

    deepspeed = import_deepspeed()
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo", init_method={rendezvous!r}, rank=rank, world_size=2)
    deepspeed.init_distributed("gloo")
    torch.set_num_threads(1)
    shape = LlamaConfig(
        vocab_size=500, hidden_size=400, intermediate_size=800, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=False,
    )
    told = []
    for stage, dtype, optimizer in {cases!r}:
        with Alive(skip=1e9) as alive:
            lm = LlamaForCausalLM(shape).to(getattr(torch, dtype))
            for parameter in lm.parameters():
                alive.add(parameter)
            engine = initialize(lm, LearnerConfig(zero_stage=stage, optimizer=optimizer, workers=2), dtype)
            ids = torch.arange(8)[None]
            for _ in range(2):  # moments are made in the first step
                loss = engine(input_ids=ids, labels=ids, use_cache=False).loss
                engine.backward(loss, scale_wrt_gas=False)
                del loss
                taken = alive.now()
                engine.step()
        told.append(taken)
        engine.destroy()
        del engine, lm
    if rank == 0:
        print(json.dumps(told))
"""
CASES = [
    (1, "bfloat16", "adamw"),
    (2, "bfloat16", "adamw"),
    (3, "bfloat16", "adamw"),
    (1, "bfloat16", "muon"),
    (0, "float32", "adamw"),
    (1, "float32", "adamw"),
    (2, "float32", "adamw"),
]


@pytest.mark.slow
def test_deepspeed_holds_after_a_backward_pass_what_is_estimated(tmp_path: Path) -> None:
    """Two ranks, matrices above ZeRO-3's threshold of 1e5 weights; what a step needs may be there before it."""
    rendezvous = (tmp_path / "rendezvous").as_uri()
    code = textwrap.dedent(STATES.format(tests=str(Path(__file__).parents[2]), cases=CASES, rendezvous=rendezvous))
    shared = {"WORLD_SIZE": "2", "LOCAL_SIZE": "1", "LOCAL_RANK": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    shared |= {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=os.environ | shared | {"RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(2)
    ]
    out = [rank.communicate(timeout=500)[0] for rank in ranks]
    taken = json.loads(out[0].splitlines()[-1])
    model = LlamaConfig(
        vocab_size=500, hidden_size=400, intermediate_size=800, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip
    model.save_pretrained(tmp_path)
    counted = shape_of(ModelConfig(source=str(tmp_path)), "policy.model")
    for (stage, dtype, optimizer), found in zip(CASES, taken, strict=True):
        settings = LearnerConfig(zero_stage=stage, optimizer=optimizer, workers=2)
        parts, _, step = states(Trained(counted, optimizer, dtype), settings, gpu=True)
        kept = sum(parts.values())
        assert 0.97 * kept <= found <= 1.03 * (kept + step), (stage, dtype, optimizer)


# Activations and head -----------------------------------------------------------------------------------------


def _batch(tokens: int, sequences: int) -> MicroBatch:
    ids = torch.zeros(1, tokens, dtype=torch.long)
    every = torch.zeros(tokens, dtype=torch.long)
    return MicroBatch(ids, ids, (tokens // sequences,) * sequences, every, every, every, {})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_layers_keep_for_the_backward_pass_what_is_estimated(kind: type, dtype: str) -> None:
    """What autograd saves, and does not share with weights, in a model of two layers less that in a model of one."""
    tokens, kept = 512, []
    sizes = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 8, "num_key_value_heads": 2}
    for layers in (1, 2):
        config = kind(vocab_size=300, num_hidden_layers=layers, **sizes)
        lm = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), attn_implementation=register_attention()
        )
        weights = {p.untyped_storage().data_ptr() for p in lm.parameters()}
        saved: dict[int, int] = {}

        def pack(tensor: torch.Tensor, saved: dict[int, int] = saved) -> torch.Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        batch = _batch(tokens, 4)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = lm.model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False, lengths=batch.lengths)
        kept.append(sum(size for at, size in saved.items() if at not in weights))
        del hidden
    counted = Shape("", 0, 0, 0, 1, 128, 352, 8, 2, 16, 300, False, 0)
    assert kept[1] - kept[0] == pytest.approx(tokens * layer_activations(counted, dtype), rel=0.03)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_pass_over_an_8b_model_peaks_where_estimated(monkeypatch: pytest.MonkeyPatch, checkpointing: bool) -> None:
    """The real learner network of Llama-3.1-8B on tensors without data, at 8,192 tokens, gradients aside."""
    monkeypatch.setitem(network.CHUNK_LOGITS, "cpu", network.CHUNK_LOGITS["cuda"])
    tokens, layers = 8192, 4
    config = AutoConfig.from_pretrained(MODELS / "llama-3.1-8b", num_hidden_layers=layers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=register_attention()
        ).train()
        if checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        for parameter in lm.parameters():  # DeepSpeed takes a gradient as soon as it is there
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        model = LogprobModel(lm, 1.0, entropy_gradient=False)
        with Alive(besides=lm.parameters()) as alive:
            logprobs, _ = model(_batch(tokens, 4))
            logprobs.sum().backward()
    of = shape("llama-3.1-8b")
    of = Shape(**{name: getattr(of, name) for name in of.__slots__} | {"layers": layers})
    kept, one = activations(of, "bfloat16", tokens, checkpointing)
    top = head(of, "bfloat16", tokens, entropy=False, gpu=True, frozen=False)
    assert alive.peak == pytest.approx(kept + max(top, one), rel=0.03)


# Engines ------------------------------------------------------------------------------------------------------


def test_an_engine_holds_the_sequences_that_its_kv_cache_has_room_for() -> None:
    of = shape("llama-3.1-8b")
    assert kv_bytes(of, "bfloat16") == 2 * 2 * 32 * 8 * 128
    assert kv_bytes(of, "bfloat16", tensor_parallel=4) == kv_bytes(of, "bfloat16") / 4
    assert kv_bytes(of, "bfloat16", tensor_parallel=16) == kv_bytes(of, "bfloat16") / 8  # a head is not split
    from dreamgym.config import EngineConfig

    use = engine(of, EngineConfig(max_model_len=4096), "bfloat16", 80e9)
    assert sum(use.parts.values()) == pytest.approx(0.9 * 80e9)
    assert use.sequences == pytest.approx(use.kv / (4096 * 131072))
    assert engine(of, EngineConfig(), "bfloat16", 16e9).sequences == 0
    assert engine(of, EngineConfig(tensor_parallel=2), "bfloat16", 16e9).sequences > 1
    on_cpu = engine(of, EngineConfig(kv_cache_gib=1.0, max_model_len=2048), "float32", 0.0)
    assert on_cpu.sequences == pytest.approx(2**30 / (2048 * 2 * 131072))
