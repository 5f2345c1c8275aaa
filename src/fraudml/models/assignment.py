"""Which arm an entity belongs to: a stable hash, and places on a line of a million parts.

A key's place is ``floor(first 8 bytes of SHA-256(salt + ":" + key), big-endian, * 1,000,000 / 2**64)``. Any language
computes the same, so an entity stays in its arm across replicas, restarts and programs. Each challenger holds slots of
the line, the champion the rest; a change of shares gives up or takes slots and leaves all others where they are, so no
entity moves that need not.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence

PARTS = 1_000_000  # a share is a whole number of these

# Half-open ranges [start, end) of the line, in rising order, that do not touch each other.
Slots = tuple[tuple[int, int], ...]


def place(salt: str, key: str) -> int:
    """The place of a key, from 0 to 999,999.

    >>> place("s", "customer-1"), place("s", "customer-2"), place("other", "customer-1")
    (278777, 840246, 612853)
    """
    digest = hashlib.sha256(f"{salt}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * PARTS >> 64


def size(slots: Slots) -> int:
    """How many parts of the million slots hold."""
    return sum(end - start for start, end in slots)


def allot(held: Mapping[int, Slots], wanted: Mapping[int, int]) -> dict[int, Slots]:
    """New slots for each version in ``wanted`` (parts of the million; at most all of them), given those ``held``.

    Who shrinks gives up its last parts; who grows keeps all it has and takes what others give up, then the champion's.

    >>> allot({7: ((0, 50_000),)}, {7: 100_000, 8: 20_000})
    {7: ((0, 100000),), 8: ((100000, 120000),)}
    >>> allot({7: ((0, 100_000),), 8: ((100_000, 120_000),)}, {7: 60_000, 8: 80_000})
    {7: ((0, 60000),), 8: ((60000, 140000),)}
    """
    kept = {version: _first(held.get(version, ()), parts) for version, parts in wanted.items()}
    given_up = [_without(slots, kept.get(version, ())) for version, slots in held.items()]
    champions = _gaps(sorted(slot for slots in held.values() for slot in slots))
    free: Slots = (*(slot for slots in given_up for slot in slots), *champions)
    result = {}
    for version, parts in wanted.items():
        more = _first(free, parts - size(kept[version]))
        free = _without(free, more)
        result[version] = tuple(sorted(kept[version] + more))
    return {version: _joined(slots) for version, slots in result.items()}


class Assignment:
    """Finds the challenger of a key. ``arms``: the slots of each challenger; at most one holds a place."""

    def __init__(self, salt: str, arms: Sequence[Slots]) -> None:
        self._salt = salt
        ranges = sorted((start, end, arm) for arm, slots in enumerate(arms) for start, end in slots)
        self._starts = [start for start, _, _ in ranges]
        self._ends = [end for _, end, _ in ranges]
        self._arms = [arm for _, _, arm in ranges]

    def arm(self, key: str) -> int | None:
        """The number of the challenger in ``arms``; ``None`` is the champion.

        >>> halves = Assignment("s", [((0, 500_000),)])
        >>> halves.arm("customer-1"), halves.arm("customer-2")
        (0, None)
        """
        at = place(self._salt, key)
        found = bisect_right(self._starts, at) - 1
        return self._arms[found] if found >= 0 and at < self._ends[found] else None


def _first(slots: Slots, parts: int) -> Slots:
    """The first so many parts of slots."""
    kept = []
    for start, end in slots:
        if parts <= 0:
            break
        kept.append((start, min(end, start + parts)))
        parts -= end - start
    return tuple(kept)


def _gaps(slots: Sequence[tuple[int, int]]) -> Slots:
    """What slots leave of the line."""
    edges = [0, *(edge for slot in slots for edge in slot), PARTS]
    return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)


def _without(slots: Slots, taken: Slots) -> Slots:
    """Slots without their first parts, which were taken."""
    parts = size(taken)
    left = []
    for start, end in slots:
        skip = min(parts, end - start)
        parts -= skip
        if start + skip < end:
            left.append((start + skip, end))
    return tuple(left)


def _joined(slots: Slots) -> Slots:
    """The same with neighbours put together."""
    joined: list[tuple[int, int]] = []
    for start, end in slots:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
