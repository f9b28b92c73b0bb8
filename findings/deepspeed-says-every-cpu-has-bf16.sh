#!/usr/bin/env bash
# DeepSpeed 0.19.8 says of every CPU that it supports bfloat16, also where PyTorch's oneDNN says that it does not.
# Muon follows that answer: its Newton-Schulz steps run in bfloat16 even for a float32 model, and are emulated there.
# Seen on an AVX2 CPU: is_bf16_supported() True, oneDNN False, ns_compute_dtype("standard") torch.bfloat16;
# the steps of seven matrices of about 200x400 took over ten times as long as in float32.
# The script holds PyTorch to AVX2 by oneDNN's own variable, so that it shows the same on any x86-64 machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip "setuptools>=77,<81" wheel torch==2.13.0
DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip --no-build-isolation deepspeed==0.19.8
cd "$folder"
ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 DS_ACCELERATOR=cpu TORCHDYNAMO_DISABLE=1 \
    "$folder/venv/bin/python" - <<'PY'
import torch
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.muon.original_muon import ns_compute_dtype

told = {
    "deepspeed says": get_accelerator().is_bf16_supported(),
    "oneDNN says": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    "Newton-Schulz runs in": ns_compute_dtype("standard"),
}
print(told)
assert told == {
    "deepspeed says": True, "oneDNN says": False, "Newton-Schulz runs in": torch.bfloat16
}, "the behaviour has changed"
PY
echo "as described: deepspeed 0.19.8 answers yes for a CPU that oneDNN calls no"
