"""Engines and learners import what they need, and nothing that only lies about on the machine."""

import subprocess
import sys

ASKS = """
import sys
from dreamgym.runtime.spared_imports import UNUSED, spare_imports
spare_imports()
{imports}
print([name for name in UNUSED if sys.modules[name] is not None])
"""


def kept(imports: str) -> str:
    told = subprocess.run([sys.executable, "-c", ASKS.format(imports=imports)], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    return told.stdout.strip().splitlines()[-1]


def test_a_learner_does_without_them() -> None:
    assert kept("import dreamgym.learner.network, transformers.models.llama.modeling_llama") == "[]"


def test_what_was_imported_before_stays() -> None:
    told = kept("import importlib; sys.modules.pop('scipy'); importlib.import_module('scipy'); spare_imports()")
    assert told == "['scipy']"
