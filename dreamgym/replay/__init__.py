"""The semantic replay buffer: what was experienced, found again by meaning (light imports only)."""

from dreamgym.replay.records import Candidate, Demo, Outcome, ReplayError, StoredTransition, from_trajectory

__all__ = ["Candidate", "Demo", "Outcome", "ReplayError", "StoredTransition", "from_trajectory"]
