"""Hands its arguments, directory, environment and standard files to the server, and ends as the command there does.

Signals are passed on. When this is killed so is the command, but soon, not before this ends; with SIGQUIT it is before.
"""

import json
import os
import signal
import socket
import sys

SIGNALS = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGQUIT: signal.SIGKILL}


def main(address: str, *arguments: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        here = os.getcwd()  # noqa: PTH109 - pathlib takes longer than all the rest
        told = json.dumps([arguments, here, dict(os.environ)]).encode()
        socket.send_fds(connection, [len(told).to_bytes(4, "big")], [0, 1, 2])
        connection.sendall(told)
        for number, becomes in SIGNALS.items():
            signal.signal(number, lambda _, __, becomes=becomes: connection.sendall(bytes([becomes])))
        code, killed_by = connection.recv(2) or (70, 0)
    if killed_by:
        if killed_by in SIGNALS:
            signal.signal(killed_by, signal.SIG_DFL)
        os.kill(os.getpid(), killed_by)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
