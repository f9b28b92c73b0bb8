"""What is told while a run goes on: metrics and where they go, the console, the clock."""
