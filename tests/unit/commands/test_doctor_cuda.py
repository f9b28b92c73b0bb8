"""The doctor's word on builds of PyTorch, CUDA and drivers, as nodes with GPUs would tell them."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

import pytest
import torch

from dreamgym.commands.doctor_cuda import Cuda, ask_cuda, cuda_findings, torch_build
from dreamgym.config import Device

SOUND = Cuda(8, "2.13.0+cu130", "13.0", "580.65.06", "")
CPU_BUILD = Cuda(2, "2.13.0+cpu", "", "580.65.06", "Torch not compiled with CUDA enabled")
OLD_DRIVER = Cuda(4, "2.13.0+cu130", "13.0", "550.90.07", "The NVIDIA driver on your system is too old")
NO_DRIVER = Cuda(1, "2.13.0+cu130", "13.0", "", "Found no NVIDIA driver on your system")


@pytest.mark.parametrize(
    ("device", "nodes", "said"),
    [
        ("auto", [SOUND, SOUND], ["True 2 nodes with GPUs: torch 2.13.0+cu130 (CUDA 13.0), driver 580.65.06"]),
        ("gpu", [CPU_BUILD], ["False b0 has 2 GPUs, and PyTorch 2.13.0+cpu is a CPU build; install the gpu extra"]),
        ("auto", [SOUND, CPU_BUILD], ["False b1 has 2 GPUs, and PyTorch 2.13.0+cpu is a CPU build"]),
        ("auto", [CPU_BUILD], ["True PyTorch is a CPU build (2.13.0+cpu) on all nodes with GPUs"]),
        (
            "auto",
            [OLD_DRIVER],
            ["False b0 has 4 GPUs, and PyTorch 2.13.0+cu130 is built with CUDA 13.0, which"],
        ),
        ("gpu", [OLD_DRIVER, SOUND, NO_DRIVER], ["False b0 has", "False b2 has 1 GPUs"]),
        ("gpu", [], []),
    ],
)
def test_what_keeps_a_node_from_its_gpus_is_named(device: Device, nodes: list[Cuda], said: list[str]) -> None:
    told = [{"host": f"b{at}", "cuda": asdict(cuda)} for at, cuda in enumerate(nodes)] + [{"host": "c", "cuda": None}]
    found = cuda_findings(device, told)
    lines = [f"{finding.ok} {finding.said}; {finding.remedy}" for finding in found]
    assert all(line.startswith(begin) for line, begin in zip(lines, said, strict=True)), lines
    assert all(finding.ok or finding.remedy for finding in found)


def test_an_old_driver_is_told_which_one_is_needed() -> None:
    (finding,) = cuda_findings("gpu", [{"host": "a", "cuda": asdict(OLD_DRIVER)}])
    assert "550.90.07 is too old" in finding.said and "R580 or newer" in finding.remedy


def test_the_build_is_pytorchs_own_word() -> None:
    assert torch_build() == torch.__version__
    assert torch_build().partition("+")[0] == version("torch").partition("+")[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_node_without_a_usable_gpu_says_why() -> None:
    told = Cuda(**ask_cuda(2))
    assert (told.gpus, told.build, told.cuda) == (2, torch.__version__, torch.version.cuda or "")
    assert told.why
