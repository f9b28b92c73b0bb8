"""The live page on runs: what it reads from their folders, the local server that shows it, and its still, the report."""
