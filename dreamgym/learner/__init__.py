"""The learner: DeepSpeed workers, and small pure functions for losses, advantages and packing."""
