"""The order of all tests; no example of hypothesis too slow; and Ctrl-C, which a shell's `&` would keep from us."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
ROOMS = ("unit", "e2e", "ray")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick tests first, then the longest; of those with Ray the ones that share one, then those with their own."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        room = item.path.relative_to(HERE).parts[0]
        alone = room == "ray" and "local_ray" not in getattr(item, "fixturenames", ())
        return ROOMS.index(room), alone

    items.sort(key=place)
