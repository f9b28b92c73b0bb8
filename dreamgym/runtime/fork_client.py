"""The command by which Ray starts a worker that is a fork of the fork server; it ends when the fork does.

It knows the standard library alone, and starts in milliseconds. `fork_client.py SOCKET MODULES PROGRAM ARGUMENT…`.
"""

import array
import json
import os
import signal
import socket
import sys


def main() -> None:
    """Ask for the fork and wait for its end; where no server answers, start the program as Python does."""
    address, modules, *argv = sys.argv[1:]
    request = {"modules": modules.split(","), "argv": argv, "environment": dict(os.environ), "folder": os.getcwd()}
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        try:
            server.connect(address)
            streams = array.array("i", [0, 1, 2])
            server.sendmsg([len(body).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
            server.sendall(body)
            answer = server.recv(8)
        except OSError:
            answer = b""
        if not answer:
            os.execv(sys.executable, [sys.executable, *argv])
        fork = int.from_bytes(answer, "little")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: os.kill(fork, number))
        server.recv(1)  # the fork holds the other end as long as it lives


if __name__ == "__main__":
    main()
