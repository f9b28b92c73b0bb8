"""The machine in words, to stand beside what was measured on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def machine() -> str:
    """Processor, cores, memory and NVIDIA GPUs of this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    gib = psutil.virtual_memory().total / 2**30
    return f"{processor}, {os.cpu_count()} cores, {gib:.0f} GiB, {f'{gpus} GPUs' if gpus else 'no GPU'}"
