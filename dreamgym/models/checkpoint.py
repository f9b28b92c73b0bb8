"""Makes the checkpoint folder that engines and learner load: from scratch, from Hugging Face, or from GGUF."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamgym.config import ModelConfig
from dreamgym.errors import ModelError
from dreamgym.models.scratch import scratch_model, scratch_tokenizer
from dreamgym.models.tokenizer import load_tokenizer


def prepare_model(
    config: ModelConfig, out: Path, texts: Iterable[str], seed: int, tokenizer_from: Path | None = None
) -> Path:
    """Write a Hugging Face checkpoint (safetensors and tokenizer) to `out` and return it.

    Args:
        config: a `dtype` of auto keeps the precision that the model comes in; float32 where it is made from nothing.
        texts: what a scratch model's tokenizer is trained on; not read where it is not needed.
        seed: drives the initial weights of a scratch model.
        tokenizer_from: a checkpoint whose tokenizer a scratch model takes over.

    Raises:
        ModelError: the model cannot be loaded or made.
    """
    import torch

    if config.source == "scratch":
        tokenizer = scratch_tokenizer(config.scratch, texts, tokenizer_from)
        model: Any = scratch_model(config.scratch, tokenizer, seed)
    elif file := gguf_file(config.source):
        model, tokenizer = _load_gguf(file)
    else:
        model, tokenizer = _load_pretrained(config.source)
    set_variables(tokenizer, config.chat_template_kwargs)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if config.dtype != "auto":
        model.to(getattr(torch, config.dtype))
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out


def set_variables(tokenizer: Any, variables: Mapping[str, bool | int | float | str]) -> None:
    """Give variables of the chat template their values, in the template itself.

    Raises:
        ModelError: the template does not read one of these names.
    """
    template = tokenizer.chat_template
    for name, value in variables.items():
        if not name.isidentifier() or not re.search(rf"\b{name}\b", str(template or "")):
            raise ModelError(
                f"model.chat_template_kwargs: the chat template of {tokenizer.name_or_path} reads no '{name}'; leave "
                "it out, or correct its name."
            )
        # Hugging Face's Jinja drops the line break that follows a block, and with it nothing of the template.
        template = f"{{% set {name} = {json.dumps(value)} %}}\n{template}"
    tokenizer.chat_template = template


def gguf_file(source: str) -> Path | None:
    """The GGUF file that a source names, as a path or as `package:NAME`, the file in an installed package of Python.

    The package is not imported. None where the source is something else.

    Raises:
        ModelError: there is no such package, or it has not one such file.
    """
    if not source.startswith("package:"):
        return Path(source) if source.endswith(".gguf") else None
    name = source.removeprefix("package:")
    package = find_spec(name) if name.isidentifier() else None
    files = list(Path(package.origin).parent.glob("*.gguf")) if package and package.origin else []
    if len(files) != 1:
        said = f"has {len(files)} GGUF files" if package else "is not installed"
        raise ModelError(f"model.source: the package '{name}' {said}; install it, or give the path of a GGUF file.")
    return files[0]


def _load_pretrained(source: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(source)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model.source: '{source}' cannot be loaded ({_first_line(error)}).") from error
    return model, load_tokenizer(source)


def _load_gguf(path: Path) -> tuple[Any, Any]:
    """De-quantise through transformers; the result is an ordinary model with no trace of quantisation."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not path.is_file():
        raise ModelError(f"model.source: '{path}' is no file; give the path of a GGUF file.")
    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"model.source: '{path}' cannot be read as GGUF ({_first_line(error)}).") from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model, tokenizer


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
