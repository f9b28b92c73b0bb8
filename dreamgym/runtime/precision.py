"""The precision to compute in: what the hardware multiplies natively, wherever a configuration says `auto`."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

NATIVE_CAPABILITY = (8, 0)
"""Compute capability of Ampere, the first GPUs that multiply bfloat16."""
_CPU_FLAGS = ("avx512_bf16", "amx_bf16")
_CAPS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables by which PyTorch is held to fewer instructions than the CPU has."""
_CAPPED = {"avx2", "sse41", "avx", "avx2_vnni", "avx512_core", "avx512_core_vnni", "default", "avx512"}
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Precision:
    """What stands behind `auto`: `native` says whether bfloat16 is multiplied natively, `because` says of what."""

    native: bool
    because: str

    def dtype(self, asked: str = "auto") -> str:
        """`bfloat16` or `float32`: what was asked for, or what suits the hardware."""
        if asked != "auto":
            return asked
        return "bfloat16" if self.native else "float32"

    def slow(self, asked: str) -> bool:
        """Whether a precision that was asked for is one that this hardware has to emulate."""
        return asked == "bfloat16" and not self.native


def of_cpu() -> Precision:
    """That of this machine's CPU: bfloat16 needs AVX512-BF16 or AMX, and no variable that forbids them to PyTorch.

    PyTorch multiplies bfloat16 on any other CPU too, some 45 times slower than float32.
    """
    flags = _cpu_flags()
    has = [flag for flag in _CPU_FLAGS if flag in flags]
    capped = [f"{name}={os.environ[name]}" for name in _CAPS if _caps(name)]
    if has and capped:
        return Precision(False, f"{capped[0]} keeps PyTorch from this CPU's {has[0].upper().replace('_', '-')}")
    if has:
        return Precision(True, f"this CPU has {' and '.join(flag.upper().replace('_', '-') for flag in has)}")
    return Precision(False, "this CPU has neither AVX512-BF16 nor AMX, without which bfloat16 is slow")


def of_gpus() -> Precision | None:
    """That of this machine's NVIDIA GPUs, by compute capability; None where there is none, or no driver."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    gpus = [line.rsplit(",", 1) for line in told.splitlines() if "," in line]
    older = [name.strip() for name, capability in gpus if _version(capability) < NATIVE_CAPABILITY]
    if not gpus:
        return None
    if older:
        return Precision(False, f"the {older[0]} is older than Ampere and has no bfloat16")
    return Precision(True, f"the {gpus[0][0].strip()} multiplies it natively")


def of_all(machines: Iterable[Precision]) -> Precision | None:
    """That of a cluster: its models compute alike everywhere, so one machine without bfloat16 decides."""
    known = list(machines)
    return next((one for one in known if not one.native), known[0] if known else None)


def _version(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.strip().split(".") if part.isdigit())


def _caps(variable: str) -> bool:
    """Whether a variable holds oneDNN (or ATen, whose names for a capability are a subset) below bfloat16."""
    return os.environ.get(variable, "").lower() in _CAPPED - ({"avx512"} if variable.startswith("ATEN") else set())


def _cpu_flags() -> set[str]:
    """The instruction sets of an x86 CPU, by Linux' names; empty elsewhere."""
    if platform.machine() not in ("x86_64", "AMD64") or not _CPUINFO.is_file():
        return set()
    for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()
