"""phi(s, a): unit vectors that depend on the text alone, from hashing and from a real encoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamgym.config import ReplayConfig
from dreamgym.errors import ModelError
from dreamgym.replay.embed import EncoderEmbedder, HashingEmbedder, make_embedder, query_text

WORDS = ["kitchen", "go", "north", "coin", "box", "take", "the", "you", "see", "2", "door"]


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=8))
def test_hashing_vectors_are_unit_and_independent_of_the_batch(texts: list[str]) -> None:
    embedder = HashingEmbedder(64)
    vectors = embedder.embed(texts)
    assert vectors.shape == (len(texts), 64)
    assert vectors.dtype == np.float32
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_array_equal(vectors, alone)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    # Signed buckets of a short text may cancel out entirely; every other vector has length 1.
    assert all(abs(norm - 1) < 1e-5 or norm == 0 for norm in norms)


def test_hashing_is_the_same_in_another_process() -> None:
    text = query_text("You are in the kitchen.", "go north")
    code = (
        "import sys; from dreamgym.replay.embed import HashingEmbedder; "
        "print(HashingEmbedder(32).embed([sys.argv[1]]).tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code, text], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == HashingEmbedder(32).embed([text]).tobytes().hex()


def test_hashing_ranks_the_same_situation_and_order_of_words_first() -> None:
    embedder = HashingEmbedder(256)
    query, same, reordered, other = embedder.embed(
        [
            query_text("You are in the kitchen. A coin is here.", "take coin"),
            query_text("You are in the kitchen. A coin is there.", "take coin"),
            query_text("coin A. is kitchen here You the in are", "coin take"),
            query_text("A long corridor leads outside.", "open door"),
        ]
    )
    assert query @ same > query @ reordered > query @ other


def test_state_and_action_both_matter() -> None:
    texts = [query_text(s, a) for s in ("kitchen", "cellar") for a in ("go north", "go south")]
    assert len({vector.tobytes() for vector in HashingEmbedder(256).embed(texts)}) == 4


def test_the_same_action_in_another_state_is_nearer_than_another_action_in_this_one() -> None:
    here, there = "at kitchen has coin north hall holds nothing", "at cellar has coin south hall holds nothing"
    texts = [query_text(here, "take coin"), query_text(there, "take coin"), query_text(here, "move north")]
    query, same_action, same_state = HashingEmbedder(256).embed(texts)
    assert query @ same_action > query @ same_state


def test_no_text_is_no_row() -> None:
    assert HashingEmbedder(16).embed([]).shape == (0, 16)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT encoder with random weights and a word-level tokenizer, saved as Hugging Face does."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ">", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(shape).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    return folder


def test_encoder_is_the_mean_of_the_real_tokens(encoder_folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["go north", "you see the coin . take the coin", "door", "the box > take coin"]
    vectors = EncoderEmbedder(str(encoder_folder), batch_size=3).embed(texts)
    model, tokenizer = AutoModel.from_pretrained(encoder_folder).eval(), AutoTokenizer.from_pretrained(encoder_folder)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
        mean = hidden.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_encoder_cuts_what_is_longer_than_its_context(encoder_folder: Path) -> None:
    embedder = make_embedder(ReplayConfig(embedder=str(encoder_folder)))
    vectors = embedder.embed(["coin " * 500, "coin " * 30])
    assert embedder.dim == vectors.shape[1] == 32
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)


def test_a_missing_encoder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"replay\.embedder: cannot load") as caught:
        make_embedder(ReplayConfig(embedder=str(tmp_path / "nowhere")))
    assert "\n" not in str(caught.value)
