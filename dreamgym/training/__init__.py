"""The RL loop: rollouts, learner steps, refresh of the dream, evaluation, checkpoints, restarts."""
