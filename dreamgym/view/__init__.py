"""The live page on runs: what it reads from their folders, and the local server that shows it."""
