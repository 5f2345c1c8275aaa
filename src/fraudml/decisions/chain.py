"""What shows that the decision log is as it was written: a chain of hashes for each process that appends.

Each commit of decisions or of label reports adds a :class:`Link` in its own transaction. The link has a digest of each
row that the commit stored, and one over these and the digest of the link before, as in a ledger of linked time stamps
(Haber and Stornetta 1991). So a row cannot be altered, removed or added without a link that does not fit, unless all
links after it are made anew; that shows where a later digest, a *head*, was kept elsewhere.

A row is what SQLite's tables hold, as MessagePack: ``[row of transactions, row of decisions]`` or the row of
``labels``, in the order of their columns; of a report's number is told only whether it is the first, since a copy
of a log may number the others otherwise. PostgreSQL's columns hold the same values.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from itertools import starmap
from struct import Struct
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

SEAL_BYTES = 16  # of a row's SHA-256
START = -1  # the "writer" of the link that says from where on there is a chain: older rows have none
MEMBER = np.dtype([("arrival", "<i8"), ("event_time_us", "<i8"), ("seal", f"V{SEAL_BYTES}")])
_member = Struct(f"<qq{SEAL_BYTES}s").pack
_encode = msgspec.msgpack.Encoder().encode


class Kind(StrEnum):
    """What a commit stored."""

    start = "start"  # nothing: the log is older than its chain, which covers what arrives after the link's ``first``
    decisions = "decisions"
    labels = "labels"


class Head(NamedTuple):
    """The end of a writer's chain."""

    seq: int = 0
    digest: bytes = bytes(32)


# A stored row: its arrival, the time of its transaction, and its seal. A plain tuple: there is one for each decision.
Member = tuple[int, int, bytes]


class Link(msgspec.Struct, frozen=True, gc=False):
    """One commit. ``first``: the least arrival in it; ``until_us``: the greatest time of a transaction in it.

    ``members``: :data:`MEMBER` records in order of arrival, ``None`` when retention has removed all of their rows;
    ``content`` is their SHA-256. ``digest``: over all of it and the digest before.
    """

    writer: int
    seq: int
    kind: Kind
    rows: int
    first: int
    until_us: int
    content: bytes
    digest: bytes
    members: bytes | None

    @property
    def head(self) -> Head:
        """Where the chain goes on."""
        return Head(self.seq, self.digest)

    def follows(self, before: bytes) -> bool:
        """Whether the digest is the one that it must be after another."""
        return self.digest == _digest(
            before, self.writer, self.seq, self.kind, self.rows, self.first, self.until_us, self.content
        )

    def has_members(self) -> bool:
        """Whether the members are those that were linked."""
        return self.members is not None and sha256(self.members).digest() == self.content

    def records(self) -> NDArray[Any]:
        """The members as an array of :data:`MEMBER`; none for what is no such array."""
        whole = len(self.members or b"") // MEMBER.itemsize * MEMBER.itemsize
        return np.frombuffer((self.members or b"")[:whole], MEMBER)


def seal(row: Sequence[object]) -> bytes:
    """The digest of a row as it is stored; ``TypeError`` or ``ValueError`` for what no log stores.

    >>> seal((1, "t1", 1, 0, 5)).hex()
    '84aba3a7cd40c718c4bf2251706be330'
    """
    return sha256(_encode(row)).digest()[:SEAL_BYTES]


def seals(rows: Sequence[Sequence[object]]) -> list[bytes]:
    """:func:`seal` of each row; of many it takes less time."""
    return [sha256(row).digest()[:SEAL_BYTES] for row in map(_encode, rows)]


def linked(writer: int, before: Head, kind: Kind, members: Sequence[Member]) -> Link:
    """The next link of a writer."""
    ordered = sorted(members)
    packed = b"".join(starmap(_member, ordered))
    content = sha256(packed).digest()
    seq, first = before.seq + 1, ordered[0][0]
    until_us = max(time for _, time, _ in ordered)
    digest = _digest(before.digest, writer, seq, kind, len(ordered), first, until_us, content)
    return Link(writer, seq, kind, len(ordered), first, until_us, content, digest, packed)


def start(last_arrival: int) -> Link:
    """The link of a log that has rows without a chain, up to ``last_arrival``."""
    content = sha256(b"").digest()
    digest = _digest(Head().digest, START, 1, Kind.start, 0, last_arrival, 0, content)
    return Link(START, 1, Kind.start, 0, last_arrival, 0, content, digest, b"")


def _digest(before: bytes, *link: object) -> bytes:
    return sha256(before + _encode(link)).digest()
