"""The transactions of a batch by entity key, such that each sees what came before it in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ZERO, ONE = np.array([0]), np.array([1])
ZERO.setflags(write=False)
ONE.setflags(write=False)


@dataclass(frozen=True)
class Group:
    """Transactions that have a key of one entity, sorted by key, each key's in the given order.

    ``events``: their places in the batch. ``first``, ``until``: for each key, its part of them. A *view* is what some
    of them see: the lane as it is held, and of the batch those from ``first`` to ``shown`` of its key. All transactions
    of a key have one view as long as none is older than one before it, for what comes later in the batch is then not
    older either and outside every window. Else each rise in time has its own: ``view`` for each transaction, ``key``
    and ``shown`` for each view, and ``earlier``: up to where its key's transactions came before the rise.
    """

    keys: tuple[str, ...]
    events: Ints
    times: Ints
    first: Ints
    until: Ints
    view: Ints
    key: Ints
    shown: Ints
    earlier: Ints

    @property
    def views(self) -> int:
        """How many views there are."""
        return len(self.key)

    @property
    def rises(self) -> int:
        """How many views there are beyond one for each key."""
        return len(self.key) - len(self.keys)


def group(keys: Sequence[str | None], times: Ints, *, update: bool) -> Group | None:
    """Group a batch by its keys; ``None`` when all are missing. Without ``update`` nothing of the batch is seen."""
    if len(keys) == 1:  # as most batches of a service that is not busy: most calls of NumPy less
        key = keys[0]
        if key is None:
            return None
        return Group((key,), ZERO, times, ZERO, ONE, ZERO, ZERO, ONE if update else ZERO, ZERO)
    codes: dict[str, int] = {}
    events = [i for i, key in enumerate(keys) if key is not None]
    found = [codes.setdefault(key, len(codes)) for key in keys if key is not None]
    if not events:
        return None
    coded = np.array(found, dtype=np.int64)
    order = np.argsort(coded, kind="stable")
    coded = coded[order]
    place = np.array(events, dtype=np.int64)[order]
    own = times[place]
    every = np.arange(len(codes))
    first = np.searchsorted(coded, every, "left")
    until = np.searchsorted(coded, every, "right")
    if not update:
        return Group(tuple(codes), place, own, first, until, coded, every, first, first)
    begins = coded[1:] != coded[:-1]
    falls = (own[1:] < own[:-1]) & ~begins
    if not falls.any():
        return Group(tuple(codes), place, own, first, until, coded, every, until, first)
    starts = np.flatnonzero(np.concatenate([[True], begins | falls]))
    view = np.cumsum(np.concatenate([[True], begins | falls])) - 1
    shown = np.append(starts[1:], len(own))
    return Group(tuple(codes), place, own, first, until, view, coded[starts], shown, starts)


def newest(group: Group, held: Ints) -> Ints:
    """For each view the newest time that came before its first transaction; ``held``: the newest in its lane."""
    if group.earlier is ZERO:
        return held
    found = held.copy()
    for view in np.flatnonzero(group.earlier > group.first[group.key]).tolist():
        part = group.times[group.first[group.key[view]] : group.earlier[view]]
        found[view] = max(int(found[view]), int(part.max()))
    return found


def pieces(group: Group, held: Sequence[bytes], new: bytes, width: int) -> tuple[list[bytes], NDArray[Any]]:
    """The bytes that each view sees, and their lengths: ``held`` by key, ``new`` those of the batch in the group's
    order, ``width`` a record's."""
    parts: list[bytes] = []
    slices = zip(group.first[group.key].tolist(), group.shown.tolist(), strict=True)
    for key, (first, shown) in zip(group.key.tolist(), slices, strict=True):
        parts.append(held[key])
        parts.append(new[first * width : shown * width])
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    return parts, lengths[0::2] + lengths[1::2]
