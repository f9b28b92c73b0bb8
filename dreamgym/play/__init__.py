"""The dream played by hand: a run's experience model in one process, and what a person says of its answers."""
