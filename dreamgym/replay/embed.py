"""phi: how a state and an action become one unit vector, by hashed word n-grams or by a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamgym.config import ReplayConfig
from dreamgym.errors import ModelError

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
"""(n, dim) float32, every row of unit length (or all zeros, for a text without a word)."""


class Embedder(Protocol):
    """Texts to vectors; the same text always gets the same vector, whatever else is in the batch."""

    dim: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """`n` texts to an (n, dim) float32 array with rows of unit length."""
        ...


def query_text(state: str, action: str) -> str:
    """The text of phi(s, a): the one place that says how a state and an action become a query.

    The action stands twice, since a state has many more words: on mapreader the nearest transition of
    another task then has the same action in 98% of cases, not 88%, and the same effect in 93%, not 90%.
    """
    return f"{state}\n> {action}\n> {action}"


class HashingEmbedder:
    """Word uni- and bigrams hashed into `dim` signed buckets: no model, no fitting, the same everywhere."""

    def __init__(self, dim: int) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.dim = dim
        self._vectorizer = HashingVectorizer(
            n_features=dim, ngram_range=(1, 2), token_pattern=r"(?u)\w+", norm="l2", dtype=np.float32
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`."""
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        return np.asarray(self._vectorizer.transform(texts).toarray(), np.float32)


class EncoderEmbedder:
    """A Hugging Face text encoder; the vector is the mean of the last hidden states of the real tokens."""

    def __init__(self, source: str, batch_size: int = 64) -> None:
        """Load an encoder by name or folder.

        Raises:
            ModelError: there is no such model, or it is no text encoder.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            self._model: Any = AutoModel.from_pretrained(source).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"replay.embedder: cannot load '{source}' as a text encoder ({first_line(error)}); "
                "give 'hashing', a folder with config.json and weights, or a Hugging Face name."
            ) from error
        if self._tokenizer.pad_token is None:
            raise ModelError(f"replay.embedder: the tokenizer of '{source}' has no padding token; take an encoder.")
        self.dim = int(self._model.config.hidden_size)
        positions = getattr(self._model.config, "max_position_embeddings", 512)
        self._max_length = min(int(self._tokenizer.model_max_length), int(positions))
        self._batch_size = batch_size

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`; texts of like length share a batch, so that little is padded."""
        import torch

        vectors = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                vectors[rows] = self._encode([texts[i] for i in rows]).float().cpu().numpy()
        return vectors

    def _encode(self, texts: list[str]) -> torch.Tensor:
        import torch

        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._model.device)
        hidden = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return torch.nn.functional.normalize(mean, dim=-1)


def first_line(error: Exception) -> str:
    """The first line of an error's text: what a user needs of a library's long message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def make_embedder(config: ReplayConfig) -> Embedder:
    """The embedder that a configuration names.

    Raises:
        ModelError: an encoder cannot be loaded.
    """
    if config.embedder == "hashing":
        return HashingEmbedder(config.dim)
    return EncoderEmbedder(config.embedder)
