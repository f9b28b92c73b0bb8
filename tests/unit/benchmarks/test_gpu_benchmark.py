"""benchmarks/gpu.py: it runs where little is installed, and counts the FLOPs that PyTorch counts."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tests.waiting import HANG_S

ROOT = Path(__file__).parents[3]
ABSENT = ("ray", "vllm", "qdrant_client", "gymnasium", "textworld_express", "starlette", "uvicorn", "rich", "peft")
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
sys.path.insert(0, str(ROOT / "benchmarks"))

gpu = importlib.import_module("gpu")


def test_the_tiny_trial_runs_without_ray_vllm_and_most_else() -> None:
    code = (
        f"import runpy, sys; sys.modules |= dict.fromkeys({ABSENT!r}); sys.argv = ['gpu.py', '--tiny']; "
        f"sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); runpy.run_path({SCRIPT!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    assert found["tokens"] == 256 and found["tokens_per_s"] > 0
    assert found["passes"] == 1.0, "old_logprobs=engine computes nothing twice"
    assert found["gap_mean"] < 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_so() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 1
    assert (
        done.stderr.strip().splitlines()[-1].startswith("gpu.py measures the learner on a GPU, and PyTorch finds none")
    )


def test_flops_are_those_that_pytorch_counts(tmp_path: Path) -> None:
    """The counter sees all T keys of every token, of which the causal half plus the token itself is asked for."""
    shape = gpu.TINY
    linear = gpu.make_model(shape, tmp_path, gpu=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, shape.length, dtype=torch.int64)).logits.sum().backward()
    attention = 12 * shape.layers * shape.heads * shape.head_dim * shape.length
    assert counter.get_total_flops() == pytest.approx(shape.length * (6 * linear + attention), rel=0.02)
    causal = attention / 2 * (shape.length + 1) / shape.length
    assert gpu.flops_per_token(shape, linear) == 6 * linear + causal


def test_the_peak_is_found_by_the_longest_name_or_asked_for() -> None:
    assert gpu.peak_of("NVIDIA H100 80GB HBM3") == 989
    assert gpu.peak_of("NVIDIA H100 PCIe") == 756
    with pytest.raises(SystemExit, match="--peak"):
        gpu.peak_of("Abacus 3000")
