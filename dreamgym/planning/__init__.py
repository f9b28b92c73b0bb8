"""What a run needs before it is started: memory, time and money, estimated from configurations alone.

Pure functions on plain data; nothing is computed on a device, and no weights are loaded. GB are 10^9 bytes throughout.
"""

GB = 1e9
"""Bytes. A card sold with 80 GB has somewhat more, which is left as a margin."""
