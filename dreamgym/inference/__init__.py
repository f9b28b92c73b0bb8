"""Sampling tokens: vLLM engines, the pool of them, concurrent calls, new weights while they run."""
