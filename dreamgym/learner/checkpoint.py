"""Reads DeepSpeed's checkpoints as data: what is pickled in them beyond tensors and a few known classes is refused."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dreamgym.errors import DataError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


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
