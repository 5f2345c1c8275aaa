"""Whether state is complete: marks in Redis that vanish with it.

A node that was emptied has lost its marks, too. A mark is ``ready``, or ``loading:`` and the token of the process that
loads. A cluster has many marks, spread over its slots: wherever slots are moved, each node has some, and one of them
speaks for all that is on the node. (Marks move with their slots.)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence

from fraudml.adapters.online.redis.link import Command, Link, Script
from fraudml.errors import StateLost

READY = b"ready"
LOADING = b"loading:"
MARKS = 1024  # in a cluster
FRESH_S = 1.0  # so long it is taken for known which node of a cluster has which marks
LOCK_MS = 300_000  # a process that loads says so more often

LOST = "the history of online state is missing in Redis; it has to be loaded again, which a running service does itself"
TAKEN_OVER = "Redis was emptied while history was loaded, or another process loads it now; load it again from its begin"


class Epoch:
    """The marks of one namespace. Not for several threads at once."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._lock = f"fraudml:{{{namespace}:load}}".encode()
        self._note = f"fraudml:{{{namespace}:load}}:mark".encode()
        self._replace = Script.read("epoch.lua")
        self._keys: list[bytes] = []
        self._owners: dict[object, list[bytes]] = {}
        self._looked = -FRESH_S
        self._holds = b""  # what the lock says while this process has it
        self.token = b""  # of this process's load

    @property
    def stamp(self) -> bytes:
        """Four bytes that tell this load from others; none without a load."""
        return bytes.fromhex(self.token.decode())[:4]

    def _every(self) -> list[bytes]:
        if not self._keys:
            number = MARKS if self._link.is_cluster else 1
            self._keys = [f"fraudml:{{{self._namespace}:epoch:{i}}}".encode() for i in range(number)]
        return self._keys

    def asked(self, nodes: Iterable[object]) -> list[Command]:
        """For each node the command that reads the mark which speaks for it."""
        if not self._link.is_cluster:
            return [Command(key, ("GET", key)) for key in self._every()]
        if time.monotonic() - self._looked > FRESH_S:
            self._owners, self._looked = self._link.primaries(self._every()), time.monotonic()
        known = [self._owners[node][0] for node in nodes if node in self._owners]
        return [Command(key, ("GET", key)) for key in known]

    def is_ready(self, marks: Sequence[object]) -> bool:
        """Whether answers to :meth:`asked` say that state is complete."""
        return all(mark == READY for mark in marks)

    def ready_nodes(self) -> dict[object, bool]:
        """Each node, and whether what it holds is complete."""
        owners = self._link.primaries(self._every())
        marks = self._link.exchange([Command(keys[0], ("GET", keys[0])) for keys in owners.values()])
        return {node: mark == READY for node, mark in zip(owners, marks, strict=True)}

    def claim(self) -> bool:
        """Become the process that loads; false when another one is, or nothing is missing."""
        token = secrets.token_hex(8).encode()
        taken, holder = self._link.exchange(
            [
                Command(self._lock, ("SET", self._lock, token, "NX", "PX", LOCK_MS)),
                Command(self._lock, ("GET", self._lock)),
            ]
        )
        if not taken and holder != self._holds:  # else this process's load failed: it may begin another one
            return False
        self._holds = holder
        ready = self.ready_nodes()
        if all(ready.values()):
            self._link.exchange([Command(self._lock, ("DEL", self._lock))])
            return False
        owners = self._link.primaries(self._every())
        lost = [key for node, keys in owners.items() if not ready.get(node, False) for key in keys]
        noted, *marks = self._link.exchange([Command(key, ("GET", key)) for key in (self._note, *lost)])
        before = (noted or b"").partition(b":")[0]
        if before and set(marks) == {LOADING + before}:  # a load that was interrupted, and nothing of it is lost
            self.token = before
            return True
        begun = [Command(key, ("SET", key, LOADING + token)) for key in lost]
        self._link.exchange([Command(self._note, ("DEL", self._note)), *begun])
        self.token = token
        return True

    def set_mark(self, text: str) -> None:
        """Note how far this process's load has come."""
        self._link.exchange([Command(self._note, ("SET", self._note, self.token + b":" + text.encode()))])

    def mark(self) -> str | None:
        """What was noted of this process's load, or of the one that it goes on with."""
        noted = self._link.exchange([Command(self._note, ("GET", self._note))])[0] or b""
        token, colon, text = noted.partition(b":")
        return text.decode() if colon and token == self.token else None

    def renewal(self) -> Command:
        """Says that this process still loads."""
        return Command(self._lock, ("PEXPIRE", self._lock, LOCK_MS))

    def check_load(self, marks: Sequence[object]) -> None:
        """Raise StateLost when answers to :meth:`asked` say that the load is not this process's any more."""
        if any(mark not in (READY, LOADING + self.token) for mark in marks):
            self.token = b""
            raise StateLost(TAKEN_OVER)

    def finish(self) -> None:
        """State is complete. Raises StateLost when it was emptied since the load began."""
        every = self._every()
        if not self.token:
            self._link.exchange([Command(key, ("SET", key, READY)) for key in every])
            return
        expected, self.token = LOADING + self.token, b""
        answers = self._link.exchange([Command(key, (1, key, expected, READY), self._replace) for key in every])
        self._link.exchange([Command(key, ("DEL", key)) for key in (self._lock, self._note)])
        if not all(answers):
            raise StateLost(TAKEN_OVER)
