"""Checkpoints that are made: tokenizer round trips, determinism, tied weights, GGUF, and clear errors."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.errors import ModelError
from dreamgym.models.checkpoint import prepare_model, set_variables
from dreamgym.models.scratch import scratch_model
from dreamgym.models.tokenizer import load_tokenizer, train_tokenizer

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from templates import stand_in, text_templates

TEXTS = ["state: you are in the kitchen | exits: north, south\ntask: bring the coin to the box\n"] * 20
SHAPE = ScratchModel(layers=2, hidden=64, intermediate=96, heads=2, head_dim=32, vocab=400, context=128)
TOKENIZER = train_tokenizer(TEXTS, 400, 128)


@given(st.text(max_size=60))
def test_any_text_round_trips(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text
    assert max(ids, default=0) < len(TOKENIZER) <= 400


def test_frequent_words_are_one_token_and_a_line_break_stands_alone() -> None:
    tokens = TOKENIZER.tokenize("state: you are in the kitchen\n\ntask:")
    assert [TOKENIZER.convert_tokens_to_string([t]) for t in tokens] == [
        *("state:", " you", " are", " in", " the", " kitchen", "\n", "\n", "task:")
    ]


def test_the_same_texts_and_seed_give_the_same_files_and_another_seed_does_not(tmp_path: Path) -> None:
    config = ModelConfig(scratch=SHAPE)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_model(config, tmp_path / name, TEXTS, seed)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in "ac"]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("tied", [True, False])
def test_a_scratch_model_loads_with_its_shape_precision_and_ties(tmp_path: Path, tied: bool) -> None:
    shape = SHAPE.model_copy(update={"tied": tied})
    path = prepare_model(ModelConfig(scratch=shape, dtype="bfloat16"), tmp_path / "m", TEXTS, 0)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert model.dtype == torch.bfloat16
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied
    assert model.config.vocab_size == len(load_tokenizer(path))
    assert model.config.max_position_embeddings == 128
    loss = model(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.item()
    assert loss == pytest.approx(torch.tensor(float(model.config.vocab_size)).log().item(), rel=0.05)


def test_a_policy_takes_over_the_tokenizer_of_the_experience_model(tmp_path: Path) -> None:
    world = prepare_model(ModelConfig(scratch=SHAPE), tmp_path / "world", TEXTS, 0)
    policy = prepare_model(ModelConfig(scratch=SHAPE), tmp_path / "policy", [], 1, tokenizer_from=world)
    assert load_tokenizer(policy).get_vocab() == load_tokenizer(world).get_vocab()


def test_a_folder_is_loaded_and_saved_in_the_precision_asked_for(tmp_path: Path) -> None:
    first = prepare_model(ModelConfig(scratch=SHAPE, dtype="float32"), tmp_path / "a", TEXTS, 0)
    second = prepare_model(ModelConfig(source=str(first), dtype="bfloat16"), tmp_path / "b", [], 0)
    whole, half = (AutoModelForCausalLM.from_pretrained(p) for p in (first, second))
    assert half.dtype == torch.bfloat16
    assert torch.equal(whole.model.norm.weight.bfloat16(), half.model.norm.weight)
    assert torch.equal(whole.lm_head.weight.bfloat16(), half.lm_head.weight)


@pytest.mark.parametrize(
    ("source", "message"),
    [("no/such/model", "'no/such/model' cannot be loaded"), ("missing.gguf", "'missing.gguf' is no file")],
)
def test_what_cannot_be_loaded_is_named(
    tmp_path: Path, source: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=message):
        prepare_model(ModelConfig(source=source), tmp_path / "m", [], 0)
    assert not (tmp_path / "m").exists()


def test_a_broken_gguf_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match=r"broken\.gguf' cannot be read as GGUF"):
        prepare_model(ModelConfig(source=str(broken)), tmp_path / "m", [], 0)


def test_a_scratch_model_begins_with_heads_that_look_one_two_and_three_tokens_back() -> None:
    """Attention of the first layer, recomputed by hand from its queries, keys and RoPE."""
    tokenizer = train_tokenizer(["north east south west"] * 4, 320, 128)
    shape = ScratchModel(layers=2, hidden=128, intermediate=96, heads=4, head_dim=32, vocab=320, context=128)
    model = scratch_model(shape, tokenizer, seed=3).model
    length, size = 24, 32
    hidden = model.layers[0].input_layernorm(model.embed_tokens(torch.randint(0, len(tokenizer), (1, length))))
    attention = model.layers[0].self_attn
    q, k = (p(hidden).view(1, length, 4, size).transpose(1, 2) for p in (attention.q_proj, attention.k_proj))
    q, k = apply_rotary_pos_emb(q, k, *model.rotary_emb(hidden, torch.arange(length)[None]))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(size)).masked_fill(torch.ones(length, length).triu(1).bool(), -1e9)
    weights = scores.softmax(-1)[0]
    for head, back in enumerate((1, 2, 3)):
        assert all(weights[head, t, t - back] > 0.95 for t in range(4, length))
    assert weights[3].max() < 0.95 or weights[3, 12, 11] < 0.95


VARIABLES = [
    ("qwen3", {"enable_thinking": False}),
    ("qwen3_5_think", {"enable_thinking": False}),
    ("gemma4", {"enable_thinking": True}),
    ("gptoss", {"reasoning_effort": "high", "model_identity": 'A "guide"\nof süden'}),
]


@pytest.mark.parametrize(("family", "variables"), VARIABLES)
def test_variables_in_a_template_render_as_those_that_a_caller_gives(family: str, variables: dict[str, Any]) -> None:
    template = dict(text_templates())[family]
    given, written = stand_in(family, template), stand_in(family, template)
    set_variables(written, variables)
    asked = [{"role": "user", "content": "Where is the key?"}]
    answered = [*asked, {"role": "assistant", "content": "Up."}, {"role": "user", "content": "\nGo."}]
    for messages in (asked, answered):
        plain = {"tokenize": False, "add_generation_prompt": True, "strftime_now": lambda _: "2026-01-01"}
        expected = given.apply_chat_template(messages, **plain, **variables)
        assert written.apply_chat_template(messages, **plain) == expected
        assert given.apply_chat_template(messages, **plain) != expected, "the variable changes something"


def test_a_variable_is_kept_by_the_checkpoint_and_one_that_no_template_reads_is_named(tmp_path: Path) -> None:
    made = prepare_model(ModelConfig(scratch=SHAPE), tmp_path / "a", TEXTS, 0)
    tokenizer = load_tokenizer(made)
    tokenizer.chat_template = "\n{{ mood }}" + tokenizer.chat_template
    tokenizer.save_pretrained(made)
    happy = ModelConfig(source=str(made), chat_template_kwargs={"mood": "happy"})
    again = load_tokenizer(prepare_model(happy, tmp_path / "b", [], 0))
    assert again.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False).startswith("\nhappy")
    with pytest.raises(ModelError, match="reads no 'mod'; leave it out"):
        prepare_model(ModelConfig(source=str(made), chat_template_kwargs={"mod": 1}), tmp_path / "c", [], 0)
