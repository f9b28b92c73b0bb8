"""Which addresses a browser may open, and when a site is not there."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there, for all hosts that a task may not open."""
UNREACHABLE = re.compile(r"net::ERR_(CONNECTION|NAME|ADDRESS|TIMED_OUT|EMPTY|INTERNET|NETWORK|SOCKET|SSL|CERT)")
"""Chromium's words for a host that does not answer."""


def may_open(url: str, hosts: Sequence[str], files: str) -> bool:
    """Whether an address belongs to a task: its hosts (`*` allowed, with a port or any), its files, or no outside."""
    parts = urlsplit(url)
    if parts.scheme in ("data", "blob", "about", "chrome-error"):
        return True
    if parts.scheme == "file":
        return bool(files) and os.path.normpath(parts.path).startswith(files)
    return parts.scheme in ("http", "https", "ws", "wss") and any(
        fnmatch.fnmatchcase(site_of(url) if ":" in host else (parts.hostname or "").lower(), host.lower())
        for host in hosts
    )


def site_of(url: str) -> str:
    """Host and port of an address."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname or ''}:{port or (443 if parts.scheme in ('https', 'wss') else 80)}".lower()


def is_page(request: Any) -> bool:
    """Whether a request is for what a tab shows, and not for a part of it."""
    from playwright.sync_api import Error

    try:
        return bool(request.is_navigation_request()) and request.frame.parent_frame is None
    except Error:
        return True  # of a tab that is only just opened
