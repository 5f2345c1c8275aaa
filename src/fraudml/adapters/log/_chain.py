"""The chain of hashes in the SQLite file: written by the only process that appends, so by writer 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fraudml.adapters.log._tables import chain
from fraudml.decisions.chain import Head, Kind, Link, Member, linked

WRITER = 0
_COLUMNS = ", ".join(chain.columns.keys())
_HEAD = f"SELECT seq, digest FROM chain WHERE writer = {WRITER} ORDER BY seq DESC LIMIT 1"  # noqa: S608 - our own name
_ADD = f"INSERT {{}}INTO chain ({_COLUMNS}) VALUES ({', '.join('?' * len(chain.columns))})"  # noqa: S608 - our own names
ADD = _ADD.format("")
CARRY = _ADD.format("OR IGNORE ")


class Chain:
    """The end of the chain, kept in memory between commits."""

    def __init__(self) -> None:
        self._head: Head | None = None

    def add(self, driver: Any, kind: Kind, members: Sequence[Member]) -> None:
        """Link rows inside of the transaction that stores them; :meth:`forget` must follow when that fails."""
        if not members:
            return
        if self._head is None:
            self._head = Head(*(driver.execute(_HEAD).fetchone() or Head()))
        link = linked(WRITER, self._head, kind, members)
        driver.execute(ADD, values(link))
        self._head = link.head

    def forget(self) -> None:
        """Look the end up with the next commit."""
        self._head = None


def values(link: Link) -> tuple[object, ...]:
    """The row of a link."""
    return (
        *(link.writer, link.seq, link.kind.value, link.rows, link.first),
        *(link.until_us, link.content, link.digest, link.members),
    )


def link(row: Sequence[Any]) -> Link:
    """From a row of the table; ``ValueError`` for one that no fraudml wrote."""
    writer, seq, kind, rows, first, until_us, content, digest, members = row
    numbers = all(isinstance(each, int) for each in (writer, seq, rows, first, until_us))
    if not numbers or not all(isinstance(each, bytes) for each in (content, digest, members or b"")):
        raise ValueError(f"link {writer}/{seq} has values that no link has")  # SQLite keeps any type in any column
    return Link(writer, seq, Kind(kind), rows, first, until_us, content, digest, members)
