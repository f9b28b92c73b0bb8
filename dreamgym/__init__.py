"""dreamgym trains LLM agents by reinforcement learning inside a dream (DreamGym, arXiv 2511.03773)."""

__version__ = "0.1.0"
