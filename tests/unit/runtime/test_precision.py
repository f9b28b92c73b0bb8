"""What a `dtype` of auto stands for: on this CPU, on GPUs that are described, and on a mixed cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamgym.config import DPOConfig, RunConfig, SFTConfig
from dreamgym.runtime import precision
from dreamgym.runtime.cluster import Machine, settled, torch_is_for_gpus
from dreamgym.runtime.precision import Precision

SLOW, FAST = Precision(False, "it has none"), Precision(True, "it has it")


def machine(of: Precision) -> Machine:
    return Machine(threads=1, gpu=False, cpus=0.0, watched=False, precision=of)


def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: none\n")
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for name in precision._CAPS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("avx2", "float32"),
        ("avx2 avx512f avx512_vnni", "float32"),
        ("avx2 avx512f avx512_bf16", "bfloat16"),
        ("avx512_bf16 amx_bf16", "bfloat16"),
    ],
)
def test_a_cpu_has_it_with_avx512_bf16_or_amx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, dtype: str
) -> None:
    cpuinfo(monkeypatch, tmp_path, flags)
    assert precision.of_cpu().dtype() == dtype


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA=AVX2", "ATEN_CPU_CAPABILITY=avx2", "DNNL_MAX_CPU_ISA=avx2"])
def test_a_variable_that_keeps_pytorch_from_it_counts_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    cpuinfo(monkeypatch, tmp_path, "avx2 avx512f avx512_bf16")
    monkeypatch.setenv(*variable.split("="))
    assert precision.of_cpu().dtype() == "float32"
    assert variable in precision.of_cpu().because
    monkeypatch.setenv(variable.split("=")[0], "ALL")
    assert precision.of_cpu().dtype() == "bfloat16"


@pytest.mark.parametrize("capped", [True, False])
def test_it_is_what_pytorch_itself_says_of_this_cpu(capped: bool) -> None:
    """The oracle: oneDNN takes bfloat16, and the CPU has instructions for it."""
    asks = (
        "import torch; from dreamgym.runtime.precision import of_cpu; "
        "has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(); "
        "print(of_cpu().native, bool(has and torch.ops.mkldnn._is_mkldnn_bf16_supported()))"
    )
    caps = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"} if capped else {}
    told = subprocess.run([sys.executable, "-c", asks], env={**os.environ, **caps}, capture_output=True, text=True)
    ours, theirs = told.stdout.split()
    assert ours == theirs, told.stderr
    assert not capped or ours == "False"


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ("NVIDIA A100-SXM4-80GB, 8.0\nNVIDIA A100-SXM4-80GB, 8.0\n", "bfloat16"),
        ("NVIDIA GeForce RTX 4090, 8.9\n", "bfloat16"),
        ("NVIDIA RTX PRO 6000, 12.0\n", "bfloat16"),
        ("Tesla T4, 7.5\n", "float32"),
        ("NVIDIA H100, 9.0\nTesla V100-SXM2-16GB, 7.0\n", "float32"),
    ],
)
def test_gpus_have_it_from_ampere_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, dtype: str) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{said}'\n".replace("\n\n", "\n"))
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = precision.of_gpus()
    assert found is not None and found.dtype() == dtype


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert precision.of_gpus() is None


def test_one_machine_without_it_decides_for_a_cluster() -> None:
    assert precision.of_all([FAST, SLOW, FAST]) == SLOW
    assert precision.of_all([FAST, FAST]) == FAST
    assert precision.of_all([]) is None


def test_auto_is_settled_in_every_section_and_what_was_asked_for_stays() -> None:
    config = RunConfig()
    config.policy.model.dtype = "bfloat16"
    known = settled(config, machine(SLOW))
    assert known.policy.model.dtype == "bfloat16"
    for section in (known.world.model, known.world.sft, known.world.refresh.sft, known.policy.sft, known.policy.dpo):
        assert section.dtype == "float32"
    assert SFTConfig().dtype == DPOConfig().dtype == config.world.model.dtype == "auto"


def test_the_choice_is_told_once_and_a_slow_one_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig()
    config.world.sft.dtype = "bfloat16"
    told_by = Precision(False, "the test says so")
    for _ in range(2):
        settled(config, machine(told_by))
    told = capsys.readouterr().out
    assert told.count("precision: float32, as the test says so") == 1
    assert told.count("world.sft.dtype: bfloat16 is slow here") == 1


def test_the_build_of_pytorch_is_known_without_importing_it() -> None:
    asks = "import sys; from dreamgym.runtime.cluster import torch_is_for_gpus as f; print(f(), 'torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True).stdout.split()
    import torch

    assert told == [str(torch.version.cuda is not None), "False"]
    assert torch_is_for_gpus() == (torch.version.cuda is not None)
