"""Keeps a process from importing large packages that it does not use, but that others import where they find them."""

from __future__ import annotations

import sys

UNUSED = ("sklearn", "scipy", "pandas", "cv2")
"""What transformers and vLLM import for assisted decoding, object detection and images: neither learner nor engine."""


def spare_imports() -> None:
    """Make packages of `UNUSED` look as if they were not installed, to this process, from now on.

    An engine or a learner worker then starts a fifth sooner and takes some 140 MB less. What has been imported
    already stays. To be called in processes of our own alone: nothing that a user brings runs in them.
    """
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # Python's own way to say: not there
