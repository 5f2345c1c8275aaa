"""Notes of which transactions traced calls have added when, kept for minutes.

A process may end after it has added transactions and before it has logged its decisions. Whoever gets the transactions
next finds them in state already; since when others could see them, only these notes say, and only then are they read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online.redis.lanes import ID_BYTES
from fraudml.adapters.online.redis.link import Link
from fraudml.adapters.online.redis.wire import Command
from fraudml.errors import OnlineStoreError

KEPT_MS = 300_000

Ids = NDArray[np.void]


class Call(NamedTuple):
    """Transactions that are added, and the time before they are."""

    ids: Ids
    now_us: int


class Calls:
    """The notes beside marks (:mod:`.epoch`): each node has such a key, wherever slots are moved."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def note(self, mark: bytes, call: Call) -> list[Command]:
        """What notes a call, on the node of this mark."""
        key = _beside(mark)
        oldest_ms = call.now_us // 1_000 - KEPT_MS
        added = ("XADD", key, "MINID", "~", oldest_ms, "*", "us", call.now_us, "ids", call.ids.tobytes())
        return [Command(key, added), Command(key, ("PEXPIRE", key, KEPT_MS))]

    def entered_us(self, marks: Sequence[bytes], call: Call) -> NDArray[np.int64]:
        """When each of a call's transactions was noted first, by a call before; 0 where that is not known."""
        keys = [_beside(mark) for mark in marks]
        try:
            answers = self._link.exchange([Command(key, ("XRANGE", key, "-", "+")) for key in keys])
        except OnlineStoreError:  # decisions do not depend on it, and this has happened after a failure
            answers = []
        notes = sorted((int(note[b"us"]), note[b"ids"]) for told in answers for note in _fields(told))
        notes = [note for note in notes if note[0] < call.now_us]
        if not notes:
            return np.zeros(len(call.ids), dtype=np.int64)
        sizes = [len(ids) // ID_BYTES for _, ids in notes]
        noted = _numbers(np.frombuffer(b"".join(ids for _, ids in notes), f"V{ID_BYTES}"))
        known, first = np.unique(noted, return_index=True)  # the first is the oldest
        own = _numbers(call.ids)
        places = np.searchsorted(known, own).clip(max=len(known) - 1)
        times = np.repeat([now_us for now_us, _ in notes], sizes)[first[places]]
        return np.where(known[places] == own, times, 0)


def _beside(mark: bytes) -> bytes:
    return mark + b":calls"


def _fields(notes: list[tuple[bytes, list[bytes]]]) -> list[dict[bytes, bytes]]:
    return [dict(zip(words[::2], words[1::2], strict=True)) for _, words in notes]


def _numbers(ids: Ids) -> NDArray[np.uint64]:
    """Ids of 6 bytes as numbers, which can be sorted."""
    padded = np.zeros((len(ids), 8), dtype=np.uint8)
    padded[:, :ID_BYTES] = np.frombuffer(ids.tobytes(), np.uint8).reshape(len(ids), ID_BYTES)
    numbers: NDArray[np.uint64] = padded.view("<u8").ravel()
    return numbers
