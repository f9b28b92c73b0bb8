"""The live page on runs: what it reads of their folders, the local server that shows it, its still (the report)."""
