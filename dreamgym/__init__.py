"""dreamgym trains LLM agents by reinforcement learning inside a dream (DreamGym, arXiv 2511.03773)."""

import os

from dreamgym.api import Run, load, run

__all__ = ["Run", "__version__", "load", "run"]
__version__ = "0.1.0"

# A call that comes after Ray has ended, as one of Serve's threads may make at exit, must not start another Ray.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
