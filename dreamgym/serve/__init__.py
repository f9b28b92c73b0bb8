"""What Ray Serve hosts: the experience model and the task generator, on a token-in/token-out engine."""
