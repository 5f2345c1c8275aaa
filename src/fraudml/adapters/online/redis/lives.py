"""Which life of a server a connection leads to: one that was restarted, or another that took over, has another one.

A connection cannot outlive the server it leads to, so each new one asks once.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

ASK = ("INFO", "server")
UNKNOWN = b"-"  # of a server that does not tell
_RUN_ID = re.compile(rb"run_id:([0-9a-zA-Z]+)")


class Told(NamedTuple):
    """What a server answered to one command, and its life."""

    answer: Any
    life: bytes


class Lives:
    """Notes on connections, which forget them when they are opened anew."""

    def of(self, connection: Any) -> bytes | None:
        """The life that a connection leads to; ``None`` where it has to be asked."""
        life: bytes | None = getattr(connection, "fraudml_life", None)
        return life

    def note(self, connection: Any, answer: Any) -> None:
        """What a server answered to :data:`ASK`."""
        text = answer if isinstance(answer, bytes) else str(answer).encode()
        found = _RUN_ID.search(text)
        connection.fraudml_life = found[1] if found else UNKNOWN
        connection.register_connect_callback(self.forget)

    def forget(self, connection: Any) -> None:
        """A connection was opened anew."""
        connection.fraudml_life = None
