"""What makes the libraries that a run stands on silent and untracked, in every process of it."""

from __future__ import annotations

import logging
import os
import warnings

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def quiet_environment() -> None:
    """Make vLLM and Hugging Face silent, untracked and free of core pinning; a variable that is set stays as it is.

    To be called before torch is imported: OpenMP reads its wait policy (sleep, not spin) once.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
