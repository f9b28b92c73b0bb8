"""Real environments: the protocol, and one file each."""
