"""Addresses that this machine listens at: which of them others can reach, and opening one."""

from __future__ import annotations

import ipaddress
import socket

from dreamgym.errors import ConfigError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int, field: str) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        ConfigError: the address cannot be had; the sentence begins with `field`.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"{field}: {host}:{port} cannot be opened ({error.strerror}); choose another.") from None
