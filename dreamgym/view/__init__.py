"""The live page on runs: what it reads from their folders, its local server, and its still, the report."""
