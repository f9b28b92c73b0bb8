"""What computes: nodes with their GPUs, processors and memory, as told by `--machine` or found here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from dreamgym.errors import ConfigError
from dreamgym.planning import GB
from dreamgym.runtime.precision import of_cpu

FORMS = "8xA100-80, 1x4090-24, 2x8xH100-80 (nodes x GPUs x name-GB) or cpu:16x64 (cores x GB)"
NVIDIA_TIMEOUT_S = 30
_GPUS = re.compile(r"(?:(?P<nodes>\d{1,4})x)?(?P<gpus>\d{1,3})x(?P<name>(?!\d+x)[A-Za-z0-9]+)-(?P<gb>\d{1,4})")
_CPU = re.compile(r"cpu:(?P<cores>\d{1,4})x(?P<gb>\d{1,5}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Chip:
    """Peak rates of a device from its data sheet: dense bfloat16 (where it has none, float32) and memory."""

    flops: float
    bandwidth: float
    bfloat16: bool = True


CHIPS = {
    "B200": Chip(2250e12, 8.0e12),
    "H200": Chip(989e12, 4.8e12),
    "H100": Chip(989e12, 3.35e12),
    "A100": Chip(312e12, 2.0e12),
    "L40S": Chip(362e12, 0.864e12),
    "L40": Chip(181e12, 0.864e12),
    "L4": Chip(121e12, 0.3e12),
    "A40": Chip(150e12, 0.696e12),
    "A10": Chip(125e12, 0.6e12),
    "A10G": Chip(70e12, 0.6e12),
    "A6000": Chip(155e12, 0.768e12),
    "5090": Chip(210e12, 1.79e12),
    "4090": Chip(165e12, 1.01e12),
    "3090": Chip(71e12, 0.936e12),
    "V100": Chip(15.7e12, 0.9e12, bfloat16=False),
    "P100": Chip(10.6e12, 0.732e12, bfloat16=False),
    "T4": Chip(8.1e12, 0.32e12, bfloat16=False),
    "2080TI": Chip(13.4e12, 0.616e12, bfloat16=False),
}
UNKNOWN = Chip(100e12, 0.8e12)
"""A GPU that is not listed; it is taken to be of Ampere or newer."""
CORE = Chip(36e9, 5e9, bfloat16=False)
"""A core of a CPU with AVX2 alone: float32."""
CORE_BFLOAT16 = Chip(100e9, 5e9)
"""A core that multiplies bfloat16 natively (AVX512-BF16 or AMX)."""


@dataclass(frozen=True, slots=True)
class Node:
    """One host: `gpus` GPUs of `gpu_gb` each, `cores`, memory; a figure that is not known is None."""

    gpus: int = 0
    gpu: str = ""
    gpu_gb: float = 0.0
    cores: int | None = None
    ram_gb: float | None = None
    shm_gb: float | None = None
    disk_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Nodes that make a cluster; `bfloat16` says whether its devices multiply that natively."""

    name: str
    nodes: tuple[Node, ...]
    bfloat16: bool

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def gpu_gb(self) -> float:
        """Of the smallest GPU; a part may come to lie on any of them."""
        return min((node.gpu_gb for node in self.nodes if node.gpus), default=0.0)

    @property
    def chip(self) -> Chip:
        """The rates of a GPU, the slowest kind; without GPUs, those of all cores of a node together."""
        if self.gpus:
            return min((chip_of(node.gpu) for node in self.nodes if node.gpus), key=lambda chip: chip.flops)
        core = CORE_BFLOAT16 if self.bfloat16 else CORE
        cores = self.nodes[0].cores or 1
        return replace(core, flops=core.flops * cores, bandwidth=core.bandwidth * cores)


def chip_of(name: str) -> Chip:
    """The data sheet of a GPU by its name or any longer one, such as `NVIDIA A100-SXM4-80GB`."""
    words = re.split(r"[^A-Z0-9]+", name.upper().replace("2080 TI", "2080TI"))
    found = [word for word in words if word in CHIPS]
    if not found and "TESLA" in words:
        return CHIPS["T4"]
    return CHIPS[found[0]] if found else UNKNOWN


def parse(text: str) -> Machine:
    """A machine as `--machine` names it.

    Raises:
        ConfigError: it is of no known form.
    """
    if match := _CPU.fullmatch(text):
        node = Node(cores=int(match["cores"]), ram_gb=float(match["gb"]))
        if node.cores and node.ram_gb:
            return Machine(text, (node,), bfloat16=False)
    if match := _GPUS.fullmatch(text):
        node = Node(int(match["gpus"]), match["name"], float(match["gb"]))
        nodes = int(match["nodes"] or 1)
        if nodes and node.gpus and node.gpu_gb:
            return Machine(text, (node,) * nodes, chip_of(node.gpu).bfloat16)
    raise ConfigError(f"command line: --machine '{text:.60}' is no machine; write it as {FORMS}.")


def here() -> Machine:
    """This machine."""
    shm = Path("/dev/shm")
    node = Node(
        cores=psutil.cpu_count() or 1,
        ram_gb=psutil.virtual_memory().total / GB,
        shm_gb=shutil.disk_usage(shm).total / GB if shm.is_dir() else None,
        disk_gb=shutil.disk_usage(".").free / GB,
    )
    kinds = _nvidia_gpus()
    if kinds:
        name, gb = min(kinds, key=lambda kind: kind[1])
        node = replace(node, gpus=len(kinds), gpu=name, gpu_gb=gb)
        return Machine(f"this machine ({len(kinds)} x {name})", (node,), chip_of(name).bfloat16)
    return Machine("this machine (no GPU)", (node,), of_cpu().native)


def _nvidia_gpus() -> list[tuple[str, float]]:
    """Name and GB of each GPU that `nvidia-smi` lists; none where there is no such command or no driver.

    Raises:
        ConfigError: it does not answer.
    """
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"plan: nvidia-smi gave no answer in {NVIDIA_TIMEOUT_S} s; mend the driver, or name a machine by --machine."
        ) from error
    return parse_nvidia(told.stdout.splitlines()) if told.returncode == 0 else []


def parse_nvidia(lines: Sequence[str]) -> list[tuple[str, float]]:
    """Name and GB from lines such as `NVIDIA A100-SXM4-80GB, 81920` (MiB)."""
    rows = [line.rsplit(",", 1) for line in lines if "," in line]
    return [(name.strip(), float(mib) * 2**20 / GB) for name, mib in rows if mib.strip().isdigit()]


def of_nodes(nodes: Sequence[Node], name: str = "the cluster") -> Machine:
    """A machine of nodes that are known, such as those of a live cluster."""
    kinds = [chip_of(node.gpu) for node in nodes if node.gpus]
    return Machine(name, tuple(nodes), all(kind.bfloat16 for kind in kinds) if kinds else of_cpu().native)
