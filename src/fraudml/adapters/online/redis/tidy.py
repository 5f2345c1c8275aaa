"""Lanes that got long are made short again: what no read can see goes, and old events become tiles.

Whoever reads a lane sees how long it is, works out the shorter bytes, and sends them with a later batch. They take the
place of the bytes that were read if nobody was faster (``replace.lua``); what was added behind meanwhile stays.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online.redis.answer import NEVER, Seen
from fraudml.adapters.online.redis.lanes import Lane
from fraudml.adapters.online.redis.post import Post, Read
from fraudml.adapters.online.redis.sight import running
from fraudml.adapters.online.redis.tiles import (
    PAIR,
    Folded,
    as_tiles,
    distinct_values,
    merge,
    merge_pairs,
    put_together,
    take_apart,
)
from fraudml.adapters.online.redis.wire import Command

Ints = NDArray[np.int64]
Values = NDArray[Any]

MOST_RAW = 96  # records of a tiled lane that are not folded yet
KEPT_RAW = 32  # of those, the newest stay: transactions that come a little late then see exact windows
LEAST_DROPPED = 8  # records; dropping fewer, or less than a quarter, is not worth it
WAITING = 256  # lanes to be made short that wait for the next batch


class Tidy:
    """Collects the lanes that want to be made short."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._waiting: dict[bytes, Command] = {}

    def take(self) -> list[Command]:
        """What waits to be sent; it does not wait any longer."""
        commands = list(self._waiting.values())
        self._waiting = {}
        return commands

    def look(self, read: Read, seen: Seen, seal_us: int) -> None:
        """Look at the lanes of a batch; no read before ``seal_us`` will come."""
        lane, counts = read.lane, seen.until - seen.first
        if int(counts.max()) < LEAST_DROPPED and not lane.tiled:
            return
        wanted = np.zeros(len(counts), np.bool_)
        if lane.tiled and not lane.labels:
            wanted |= counts > MOST_RAW
        if seal_us > NEVER:
            before = foldable_us(lane, seal_us) if lane.tiled and lane.labels else _windows_us(lane, seal_us)
            if len(counts) == 1:
                old = np.array([np.count_nonzero(seen.times[: int(seen.until[0])] < before)])
            else:
                sums = running((seen.times < before).astype(np.int64))
                old = sums[seen.until] - sums[seen.first]
            most = MOST_RAW if lane.tiled and lane.labels else np.maximum(LEAST_DROPPED - 1, counts // 4)
            wanted |= old > most
        if not wanted.any():
            return
        for view in np.flatnonzero(wanted).tolist():
            number = int(read.group.key[view])
            if len(self._waiting) >= WAITING:
                return
            if number not in read.repeated:
                self._shorten(lane, self._post.key(lane, read.group.keys[number]), read.held[number], seal_us)

    def _shorten(self, lane: Lane, key: bytes, held: bytes, seal_us: int) -> None:
        shorter = shorten(lane, held, seal_us)
        if shorter is not None:
            self._waiting[key] = self._post.replace(lane, key, stamp(held), *shorter)


def stamp(held: bytes) -> tuple[int, str]:
    """What tells bytes from others: their length and SHA-1."""
    return len(held), sha1(held, usedforsecurity=False).hexdigest()


def shorten(lane: Lane, held: bytes, seal_us: int) -> tuple[bytes, bytes] | None:
    """Shorter bytes for a lane and the ids that were folded, or ``None`` when it is not worth it."""
    if not lane.tiled:
        records = np.frombuffer(held, lane.record)
        keep = _seen(lane, np.ascontiguousarray(records["time"]), seal_us)
        dropped = len(keep) - np.count_nonzero(keep)
        if dropped < max(LEAST_DROPPED, len(records) // 4):
            return None
        return records[keep].tobytes(), b""
    folded = take_apart(lane, held)
    records = np.frombuffer(folded.raw, lane.record)
    chosen = _old_enough(lane, np.ascontiguousarray(records["time"]), seal_us)
    return fold(lane, folded, chosen, drop_us(lane, seal_us) if seal_us > NEVER else NEVER)


def fold(lane: Lane, folded: Folded, chosen: NDArray[np.bool_], drop_us: int) -> tuple[bytes, bytes] | None:
    """Fold the chosen records of a tiled lane and forget what is older than ``drop_us``; ``None`` if nothing is."""
    records = np.frombuffer(folded.raw, lane.record)
    times = np.ascontiguousarray(records["time"])
    tiles = np.frombuffer(folded.tiles, lane.tile)
    newest = max(int(times.max(initial=NEVER)), int(tiles["start"].max(initial=NEVER)))
    old = (times < drop_us) & (times < newest)
    going = records[chosen & ~old]
    kept = tiles[(tiles["start"] >= drop_us)]
    if not len(going) and not old.any() and len(kept) == len(tiles):
        return None
    going = going[np.argsort(going["time"], kind="stable")]
    both = np.concatenate([kept, as_tiles(lane, going)])
    both["start"] = _starts(lane, both["start"], newest)
    both = merge(both[np.argsort(both["start"], kind="stable")])
    pairs = []
    for field, held in zip(lane.distinct, folded.pairs, strict=True):
        known = np.frombuffer(held, PAIR)
        known = known[known["start"] >= drop_us]
        values, present = distinct_values(going, field.name)
        starts = np.concatenate([known["start"], going["time"][present]])
        pairs.append(merge_pairs(_starts(lane, starts, newest), np.concatenate([known["value"], values[present]])))
    raw = records[~chosen & ~old].tobytes()
    ids = b"".join([each.tobytes()[: lane.id_bytes] for each in going])
    return put_together(folded.head, both, pairs, raw), ids


def drop_us(lane: Lane, seal_us: int) -> int:
    """What is older can no read see that is not before ``seal_us``."""
    return seal_us - lane.reach_us


def _windows_us(lane: Lane, seal_us: int) -> int:
    """What is older can no window see; of what is older a ``last`` feature needs the newest."""
    return seal_us - (lane.windows.horizon_us if lane.windows is not None else 0)


def foldable_us(lane: Lane, seal_us: int) -> int:
    """Label reports older than this are in no tile of which a read sees a part."""
    return seal_us // lane.step_us * lane.step_us


def _starts(lane: Lane, times: Ints, newest: int) -> Ints:
    """The start of the tile that each event or tile belongs to."""
    aligned: Ints = times // lane.step_us * lane.step_us
    return aligned if lane.labels else np.where(times == newest, times, aligned)


def _seen(lane: Lane, times: Ints, seal_us: int) -> NDArray[np.bool_]:
    """Which events some read can still see; always those at the newest time."""
    newest = int(times.max(initial=NEVER))
    keep_us = drop_us(lane, seal_us)
    if lane.last is not None:
        before = int(times[times < seal_us].max(initial=NEVER))
        keep_us = max(keep_us, min(before, _windows_us(lane, seal_us)))
    keep: NDArray[np.bool_] = (times >= keep_us) | (times == newest)
    return keep


def _old_enough(lane: Lane, times: Ints, seal_us: int) -> NDArray[np.bool_]:
    """Which records are to be folded."""
    if lane.labels:
        return times < (foldable_us(lane, seal_us) if seal_us > NEVER else NEVER)
    if len(times) <= MOST_RAW:
        return np.zeros(len(times), np.bool_)
    newest = int(times.max())
    edge = int(np.partition(times, len(times) - KEPT_RAW)[len(times) - KEPT_RAW])
    if edge < newest:
        return times < edge
    at_newest = times == newest  # too many at one time: they become a tile of their own
    return np.ones(len(times), np.bool_) if np.count_nonzero(at_newest) > KEPT_RAW else ~at_newest
