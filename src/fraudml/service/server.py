"""Runs the application under uvicorn."""

from __future__ import annotations

import socket
import sys
from functools import partial
from typing import Any, cast

import uvicorn

from fraudml.errors import ConfigError
from fraudml.service.app import Service
from fraudml.service.connection import Connection

GRACE_S = 10  # how long requests under way may take when the server stops
BACKLOG = 2_048
# The event loop and the thread that decides share one interpreter lock. By default who waits for it waits 5 ms.
SWITCH_S = 0.0005


def bind(host: str, port: int) -> socket.socket:
    """A socket to listen on; port 0 lets the system choose (``getsockname()[1]`` says which).

    >>> with bind("127.0.0.1", 0) as bound:
    ...     bound.getsockname()[1] > 0
    True
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol has to be named: asyncio switches Nagle's algorithm off only for sockets that say TCP, and with
    # it on each answer over a connection kept open waits some 40 ms for the client's delayed acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another --port or --host") from None
    return bound


def server(service: Service) -> uvicorn.Server:
    """A server of the service; ``run(sockets=[...])`` serves."""
    sys.setswitchinterval(SWITCH_S)
    config = uvicorn.Config(
        service.app,
        backlog=BACKLOG,
        http=cast("Any", partial(Connection, short_way=service.short_way)),
        loop="auto",  # uvloop where it exists: see docs/concepts/hot-path.md
        log_config=None,  # see logs.configure
        access_log=False,  # it would log paths, which hold ids; the middleware has a line of its own
        server_header=False,
        proxy_headers=False,  # who is local is decided by the connection, not by what clients send
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)
