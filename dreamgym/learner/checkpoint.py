"""DeepSpeed's checkpoints, written with an error that a user can mend, and read as data: code in them is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dreamgym.errors import DataError

TAG = "learner"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def write(engine: Any, path: str, state: dict[str, Any] | None = None) -> None:
    """Write trained weights, optimiser and step of an engine, and `state` (tensors and numbers); all ranks at once.

    Raises:
        DataError: it cannot be written, most often because the disk is full.
    """
    try:
        engine.save_checkpoint(path, tag=TAG, client_state=state or {}, exclude_frozen_parameters=True)
    except (OSError, RuntimeError) as error:  # the latter is PyTorch's for a disk that is full
        raise DataError(
            f"{path}: the checkpoint cannot be written ({str(error).splitlines()[0]}); make room on that disk, "
            "and run the same command again."
        ) from error


def read(engine: Any, path: str, strict: bool = True) -> dict[str, Any]:
    """Bring an engine back to what `write` wrote, with the same number of ranks; returns the state.

    Args:
        strict: every parameter must be in the checkpoint; frozen ones are not.

    Raises:
        DataError: there is none, or it holds something that only code could read.
    """
    with tensors_alone(path):
        found, state = engine.load_checkpoint(path, tag=TAG, load_module_strict=strict)
    if found is None:
        raise DataError(f"{path}: holds no checkpoint of this learner; start the run anew.")
    return dict(state)


@contextmanager
def tensors_alone(path: str) -> Iterator[None]:
    """Within it `torch.load` runs no code of a file, though DeepSpeed asks for `weights_only=False`.

    Raises:
        DataError: the checkpoint at `path` holds something else.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(known):
            yield
    except pickle.UnpicklingError as error:
        problem = " ".join(str(error).split())[:300]
        raise DataError(f"{path}: holds more than tensors and settings ({problem}); take another one.") from None
    finally:
        del os.environ[_FORCE]
        if before is not None:
            os.environ[_FORCE] = before
