"""Loads tokenizers, and trains that of a model made from nothing: byte-level BPE that keeps frequent words whole."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamgym.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

ROLES = ("<|user|>", "<|assistant|>", "<|system|>")
END, PAD = "<|end|>", "<|pad|>"
SPECIALS = [*ROLES, END, PAD]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
WORD = r"\n| ?[^\s]+|\s"
SAMPLE = 200_000
"""About as many words are enough to choose merges by; more only take time."""


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ModelError: there is none that can be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = _loader(Path(path)).from_pretrained(str(path))
        return tokenizer
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"{path}: no tokenizer can be loaded ({reason}).") from error


def _loader(folder: Path) -> Any:
    """The generic class where a checkpoint names it: `AutoTokenizer`, which finds the same, imports PyTorch first.

    That is 400 MB and some seconds in each process that reads and writes text alone.
    """
    import transformers

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except FileNotFoundError:
        named = None
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()
    return transformers.PreTrainedTokenizerFast if generic else transformers.AutoTokenizer


def train_tokenizer(texts: Iterable[str], vocab: int, context: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab` ids in which any text round-trips.

    Half of the free ids are BPE merges; the other half are whole words (a line break, or a run of
    non-space with its leading space), those that save the most tokens. A small vocabulary would
    otherwise be spent on the merges that lead to a word. The same texts give the same tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    splitter = _splitter()
    counts = Counter(piece for text in texts for piece in re.findall(WORD, text))
    words = {splitter.pre_tokenize_str(piece)[0][0]: count for piece, count in counts.items()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = (vocab - len(SPECIALS) - len(alphabet)) // 2
    bpe = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    rate = max(1, sum(words.values()) // SAMPLE)
    bpe.train_from_iterator((word for word in sorted(words) for _ in range(-(-words[word] // rate))), trainer)
    tokenizer = Tokenizer(_with_words(bpe, words, vocab - len(SPECIALS)))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        model_max_length=context,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _splitter() -> pre_tokenizers.PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _with_words(bpe: Tokenizer, words: dict[str, int], size: int) -> models.BPE:
    """The BPE model with the words that save the most tokens as ids of their own, up to `size` ids."""
    from tokenizers import models

    learned = json.loads(bpe.to_str())["model"]
    ids: dict[str, int] = learned["vocab"]
    saved = {word: count * (len(bpe.encode(word).ids) - 1) for word, count in words.items()}
    best = sorted((word for word in saved if saved[word] > 0), key=lambda word: (-saved[word], word))
    for word in best[: size - len(ids)]:
        ids[word] = len(ids)
    merges = [tuple(merge) for merge in learned["merges"]]
    return models.BPE(vocab=ids, merges=merges, ignore_merges=True)
