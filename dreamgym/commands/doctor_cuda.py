"""Whether PyTorch can use the GPUs that Ray counts on a node: the doctor's word on builds, CUDA and drivers."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamgym.config import Device

DRIVERS = {"12": "525", "13": "580"}
"""The oldest branch of NVIDIA's driver that runs what is built with a CUDA of this major version."""
ASK_TIMEOUT_S = 45.0
_ASK = """
import json, torch
try:
    torch.cuda.init()
    why = ""
except Exception as error:
    why = str(error).strip().splitlines()[0]
print(json.dumps({"build": torch.__version__, "cuda": torch.version.cuda or "", "why": why}))
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `remedy` is what to do where it is not ok."""

    check: str
    ok: bool
    said: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Cuda:
    """What a node with GPUs says: `cuda` is "" where PyTorch is a CPU build, `why` where it can use the GPUs."""

    gpus: int
    build: str
    cuda: str
    driver: str
    why: str


def torch_build() -> str:
    """PyTorch's version with its build, such as 2.13.0+cpu, which the package's own version may lack."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return "none"
    return str(runpy.run_path(str(Path(spec.origin).with_name("version.py")))["__version__"])


def ask_cuda(gpus: int) -> dict[str, Any]:
    """Runs on a node with GPUs, of which the caller holds none: a `Cuda`, told by a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK], env=environment, capture_output=True, text=True, timeout=ASK_TIMEOUT_S
        )
        told = json.loads(asked.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        told = {"build": torch_build(), "cuda": "?", "why": f"no answer from PyTorch ({type(error).__name__})"}
    return asdict(Cuda(gpus=gpus, driver=_driver(), **told))


def _driver() -> str:
    """The version of NVIDIA's driver; "" where there is none."""
    call = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(call, capture_output=True, text=True, timeout=ASK_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.split()[0] if said.split() else ""


def cuda_findings(device: Device, nodes: Sequence[dict[str, Any]]) -> list[Finding]:
    """One finding for all nodes whose GPUs can be used, and one for each where they cannot."""
    told = [(node["host"], Cuda(**node["cuda"])) for node in nodes if node["cuda"]]
    if not told:
        return []
    if device == "auto" and not any(cuda.cuda for _, cuda in told):
        said = f"PyTorch is a CPU build ({told[0][1].build}) on all nodes with GPUs, which are left alone"
        return [Finding("cuda", True, f"{said}; install the gpu extra to use them")]
    faults = [finding for host, cuda in told if (finding := _fault(host, cuda))]
    if faults:
        return faults
    kinds = sorted({f"torch {c.build} (CUDA {c.cuda}), driver {c.driver or 'unknown'}" for _, c in told})
    return [Finding("cuda", True, f"{len(told)} node{'s' * (len(told) != 1)} with GPUs: {'; '.join(kinds)}")]


def _fault(host: str, cuda: Cuda) -> Finding | None:
    """Why a node's GPUs cannot be used."""
    if not cuda.why:
        return None
    has = f"{host} has {cuda.gpus} GPUs, and PyTorch {cuda.build}"
    if not cuda.cuda:
        remedy = "install the gpu extra there, as on every node with GPUs (cluster/README.md)"
        return Finding("cuda", False, f"{has} is a CPU build", remedy)
    needed = DRIVERS.get(cuda.cuda.partition(".")[0])
    old = needed is not None and cuda.driver.partition(".")[0].isdecimal()
    if old and int(cuda.driver.partition(".")[0]) < int(needed or 0):
        said = f"{has} is built with CUDA {cuda.cuda}, which the driver {cuda.driver} is too old for"
        return Finding("cuda", False, said, f"install NVIDIA's driver R{needed} or newer on the machine itself")
    said = f"{has} (CUDA {cuda.cuda}, driver {cuda.driver or 'not found'}) cannot use them: {cuda.why}"
    newer = f", by a driver R{needed} or newer" if needed else ""
    return Finding("cuda", False, said, f"see that nvidia-smi lists them there{newer}")
