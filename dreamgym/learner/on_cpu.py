"""DeepSpeed as a worker on a CPU imports it; the fork server imports this module once for all of them."""

from __future__ import annotations

import os

import torch._dynamo

from dreamgym.learner.engines import import_deepspeed

SETTINGS = {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"}
"""DeepSpeed compiles Muon's kernels at import, for which a CPU needs a C++ compiler."""


def settle() -> None:
    """Make the settings those of this process."""
    os.environ.update(SETTINGS)
    torch._dynamo.config.disable = True  # it has read the environment when it was imported


def _import() -> None:
    """Import DeepSpeed under the settings, and leave the environment, which engines share, as it was."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    try:
        import_deepspeed()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_import()
