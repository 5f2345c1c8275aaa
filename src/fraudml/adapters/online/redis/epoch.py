"""Whether state is complete: marks in Redis that vanish with it, or become old with it (see :mod:`.marks`).

A node that was emptied has lost its marks, too; one that came back with older data has those of another life. A cluster
has many marks, spread over its slots: wherever slots are moved, each node has some, and one of them speaks for all that
is on the node. (Marks move with their slots.)
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from fraudml.adapters.online.redis import marks
from fraudml.adapters.online.redis.lease import CATCH_UP_LOCK_MS, LOCK_MS, Lease
from fraudml.adapters.online.redis.link import Link
from fraudml.adapters.online.redis.lives import Told
from fraudml.adapters.online.redis.marks import State
from fraudml.adapters.online.redis.wire import Command, Script
from fraudml.errors import OnlineStoreError, StateLost

MARKS = 1024  # in a cluster
NO_MARK = Told(None, b"")
STAMP_DIGITS = 8  # of a token
SPREAD_S = 60.0  # about so old is what marks say that speak for no node
FRESH_S = 1.0  # so long it is taken for known which node of a cluster has which marks

LOST = (
    "the history of online state is missing in Redis, or the last of it, for Redis was restarted; "
    "it has to be loaded again, which a running service does itself"
)
TAKEN_OVER = "Redis was emptied while history was loaded, or another process loads it now; load it again from its begin"


class Asked(NamedTuple):
    """Commands that read marks, and what is told by the nodes that have none."""

    commands: list[Command]
    unmarked: list[Told]


class Node(NamedTuple):
    """The marks on one node, and what the first of them says."""

    keys: list[bytes]
    told: Told


class Epoch:
    """The marks of one namespace. Not for several threads at once."""

    def __init__(self, link: Link, namespace: str) -> None:
        self._link = link
        self._namespace = namespace
        self._lease = Lease(link, f"fraudml:{{{namespace}:load}}".encode())
        self._note = f"fraudml:{{{namespace}:load}}:mark".encode()
        self._replace = Script.read("epoch.lua")
        self._keys: list[bytes] = []
        self._spread = -SPREAD_S
        self._owners: dict[object, list[bytes]] = {}
        self._looked = -FRESH_S
        self._behind: list[Node] = []  # what this process brings the last events to
        self.token = b""  # of this process's load

    @property
    def stamp(self) -> bytes:
        """Four bytes that tell this load from others, but not from one that it goes on with; none without a load."""
        return bytes.fromhex(self.token[:STAMP_DIGITS].decode())

    def keys(self) -> list[bytes]:
        """Those of all marks."""
        if not self._keys:
            number = MARKS if self._link.is_cluster else 1
            self._keys = [f"fraudml:{{{self._namespace}:epoch:{i}}}".encode() for i in range(number)]
        return self._keys

    def asked(self, nodes: Collection[object]) -> Asked:
        """For each node the command that reads the mark which speaks for it."""
        if not self._link.is_cluster:
            return Asked([_get(key) for key in self.keys()], [])
        owners = self._owners
        if time.monotonic() - self._looked > FRESH_S or not all(node in owners for node in nodes):
            owners = self._link.primaries(self.keys())
            for node in nodes:
                owners.setdefault(node, [])
            self._owners, self._looked = owners, time.monotonic()
        marked = [owners[node][0] for node in nodes if owners[node]]
        return Asked([_get(key) for key in marked], [NO_MARK] * (len(nodes) - len(marked)))

    def is_ready(self, told: Sequence[Told]) -> bool:
        """Whether answers to :meth:`asked` say that state is complete."""
        return all(map(marks.is_ready, told))

    def nodes(self, *, insist: bool = False) -> dict[object, Node]:
        """Each node. ``insist``: ask also those that are left alone."""
        owners = self._link.primaries(self.keys())
        told = self._link.exchange([_get(keys[0]) for keys in owners.values()], insist=insist)
        return {node: Node(keys, each) for (node, keys), each in zip(owners.items(), told, strict=True)}

    def loaded_nodes(self) -> set[object]:
        """The nodes that have their history, even if not the last of it."""
        return {node for node, each in self.nodes().items() if marks.state(each.told) is not State.lost}

    def claim(self) -> bool:
        """Become the process that loads; false when another one is, or nothing is missing."""
        self.token, self._behind = b"", []  # of a load of this process that failed
        if not self._lease.take():
            return False
        try:
            nodes = list(self.nodes().values())
            lost = [node for node in nodes if marks.state(node.told) is State.lost]
            behind = [node for node in nodes if marks.state(node.told) is State.behind] if not lost else []
            if (lost or behind) and self._lease.keep(LOCK_MS if lost else CATCH_UP_LOCK_MS):
                if lost:
                    self._begin(lost, secrets.token_hex(8).encode())
                self._behind = behind
                return True
            self._lease.give_back()
        except OnlineStoreError:
            with suppress(OnlineStoreError):
                self._lease.give_back()
            raise
        return False

    def _begin(self, lost: list[Node], token: bytes) -> None:
        """Load history into these nodes, or go on with a load of it that was interrupted.

        That has another token then, so that the process which began it notices when it was only stopped; but the same
        stamp, by which tiles are known that were loaded already.
        """
        places = [(key, node.told.life) for node in lost for key in node.keys]
        noted, *held = self._link.exchange([Command(key, ("GET", key)) for key in (self._note, *dict(places))])
        before, _, text = (noted or b"").partition(b":")
        note: tuple[Any, ...] = ("DEL", self._note)
        if before and held == [marks.loading(life, before) for _, life in places]:  # and nothing of it is lost
            token = before[:STAMP_DIGITS] + token[STAMP_DIGITS:]
            note = ("SET", self._note, token + b":" + text)
        begun = [Command(key, ("SET", key, marks.loading(life, token))) for key, life in places]
        self._link.exchange([Command(self._note, note), *begun])
        self.token = token

    def behind(self) -> int | None:
        """See ``OnlineStore``: of the load that this process has claimed."""
        return min((marks.arrival(node.told) for node in self._behind), default=None)

    def confirm(self, arrival: int) -> None:
        """See ``OnlineStore``. One mark of each node is enough; but any of the others speaks for another node, once its
        slot has moved there. So all are set now and then, by the process that comes to it first.
        """
        nodes = [node for node in self.nodes().values() if marks.is_ready(node.told)]
        told = [(node.keys[0], node.told) for node in nodes]
        if time.monotonic() - self._spread > SPREAD_S:
            self._spread = time.monotonic()
            others = [(key, node.told.life) for node in nodes for key in node.keys[1:]]
            held = self._link.exchange([Command(key, ("GET", key)) for key, _ in others]) if others else []
            each = [(key, Told(mark, life)) for (key, life), mark in zip(others, held, strict=True)]
            old = arrival - SPREAD_S * 1e6
            told += [(key, mark) for key, mark in each if marks.was_ready(mark) and marks.arrival(mark) < old]
        commands = [
            self._set(key, mark.answer, marks.ready(mark.life, arrival))
            for key, mark in told
            if marks.arrival(mark) < arrival
        ]
        if commands:
            self._link.exchange(commands)

    def set_mark(self, text: str) -> None:
        """Note how far this process's load has come."""
        self.check_lease()
        self._link.exchange([Command(self._note, ("SET", self._note, self.token + b":" + text.encode()))])

    def mark(self) -> str | None:
        """What was noted of this process's load, or of the one that it goes on with."""
        noted = self._link.exchange([Command(self._note, ("GET", self._note))])[0] or b""
        token, colon, text = noted.partition(b":")
        return text.decode() if colon and token == self.token else None

    def give_up(self) -> None:
        """This process does not load any more: another one may."""
        self.token, self._behind = b"", []
        self._lease.give_back()

    def check_lease(self) -> None:
        """Raise StateLost when another process may have taken over this process's load of history."""
        if self.token and not self._lease.sure:
            self.token = b""
            raise StateLost(TAKEN_OVER)

    def check_load(self, told: Sequence[Told]) -> None:
        """Raise StateLost when answers to :meth:`asked` say that the load is not this process's any more."""
        for each in told:
            if each.answer != marks.loading(each.life, self.token) and marks.state(each) is State.lost:
                self.token = b""
                raise StateLost(TAKEN_OVER)

    def finish(self) -> None:
        """State is complete. Raises StateLost when it was emptied since the load began."""
        if self._behind:
            self._finish_behind()
            return
        nodes = self.nodes().values()
        places = [(key, node.told.life) for node in nodes for key in node.keys]
        if not self.token:
            self._link.exchange([Command(key, ("SET", key, marks.ready(life, 0))) for key, life in places])
            return
        self._spread = -SPREAD_S
        token, self.token = self.token, b""
        done = self._link.exchange(
            [self._set(key, marks.loading(life, token), marks.ready(life, 0)) for key, life in places]
        )
        self._lease.give_back([self._note])
        if not all(done):
            raise StateLost(TAKEN_OVER)

    def _finish_behind(self) -> None:
        """The marks keep their number: should a server have come back with older data once more, it still holds."""
        behind, self._behind = self._behind, []
        places = [(key, node.told.life) for node in behind for key in node.keys]
        held = self._link.exchange([Command(key, ("GET", key)) for key, _ in places])
        commands = []
        for (key, life), mark in zip(places, held, strict=True):
            if number := marks.arrival(Told(mark, life)):
                commands.append(self._set(key, mark, marks.ready(life, number)))
        self._link.exchange(commands)
        self._lease.give_back()

    def _set(self, key: bytes, expected: bytes, new: bytes) -> Command:
        return Command(key, (1, key, expected, new), self._replace)


def _get(key: bytes) -> Command:
    return Command(key, ("GET", key), tells_life=True)
