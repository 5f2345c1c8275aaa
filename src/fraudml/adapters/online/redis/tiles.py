"""Tiled lanes: what is folded, what is not, and the folding.

The bytes of a tiled lane are a header (:data:`lanes.HEADER`, then the length of each section of distinct values), the
folded tiles, for each column of ``nunique`` the distinct (tile, value) pairs, and records not folded yet.

A tile is the sum of the events of one step of time. Its ``start`` is the step's, but for events that all have the
newest time of the lane: a read at that very time must not see them, so they make a tile of their own, whose start is
that time. When time moves on it is folded into its step.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudml.adapters.online.redis.lanes import HEADER, MISSING, Lane
from fraudml.adapters.online.redis.moments import carry, split, squared
from fraudml.adapters.online.redis.sight import spread

Ints = NDArray[np.int64]
Values = NDArray[Any]

PAIR = np.dtype([("start", "<i8"), ("value", "<u8")])


@dataclass(frozen=True)
class Folded:
    """The bytes of a tiled lane apart: ``head`` without lengths, tiles, pairs of each column, records."""

    head: bytes
    tiles: bytes
    pairs: tuple[bytes, ...]
    raw: bytes


def take_apart(lane: Lane, held: bytes) -> Folded:
    """The sections of a tiled lane's bytes; of one that is not held, too."""
    at = lane.header_bytes
    if len(held) <= at:
        return Folded(bytes(12), b"", (b"",) * len(lane.distinct), b"")
    lengths = struct.unpack_from(f"<{1 + len(lane.distinct)}I", held, 12)
    sections = []
    for length in lengths:
        sections.append(held[at : at + length])
        at += length
    return Folded(held[:12], sections[0], tuple(sections[1:]), held[at:])


def put_together(head: bytes, tiles: Values, pairs: Sequence[Values], raw: bytes) -> bytes:
    """The bytes of a tiled lane."""
    sections = [tiles.tobytes(), *(each.tobytes() for each in pairs)]
    return b"".join([head, struct.pack(f"<{len(sections)}I", *map(len, sections)), *sections, raw])


def is_empty(lane: Lane, held: bytes) -> bool:
    """Whether nothing is folded."""
    return len(held) <= lane.header_bytes or not any(held[12 : lane.header_bytes])


def empty_header(lane: Lane) -> bytes:
    """The header of a lane in which nothing is folded; nothing for an exact lane."""
    return bytes(lane.header_bytes)


def as_tiles(lane: Lane, records: Values) -> Values:
    """A tile for each record, whose start is the event's time."""
    tiles, names = np.zeros(len(records), lane.tile), lane.tile.names or ()
    tiles["start"] = records["time"]
    tiles["count"] = 1
    for moment in lane.windows.moments if lane.windows is not None else ():
        at = moment.at
        values, present = column(lane, records, at)
        if f"n{at}" in names:
            tiles[f"n{at}"] = present
        if values is None:
            continue
        values = np.where(present, values, 0)
        if f"sum{at}" in names:
            tiles[f"sum{at}"] = values
        for name, limbs in (("s", 2), ("q", 3)):
            if f"{name}0_{at}" in names:
                for i, limb in enumerate(split(values if name == "s" else squared(values), limbs)):
                    tiles[f"{name}{i}_{at}"] = limb
    for name in _extremes(tiles.dtype):
        values, present = column(lane, records, int(name[2:]))
        tiles[name] = np.where(present, values, nothing(name, tiles.dtype[name]))
    return tiles


def column(lane: Lane, records: Values, at: int) -> tuple[Values | None, NDArray[np.bool_]]:
    """A column's numbers, or ``None`` for a category, and where there is a value."""
    if lane.labels:
        return records["fraud"].astype(np.int64), np.ones(len(records), np.bool_)
    names = records.dtype.names or ()
    if f"x{at}" in names:
        values = np.ascontiguousarray(records[f"x{at}"])
        present = ~np.isnan(values) if values.dtype.kind == "f" else values != MISSING
        return values, present
    return None, records[f"h{at}" if f"h{at}" in names else f"p{at}"] != 0


def distinct_values(records: Values, name: str) -> tuple[Values, NDArray[np.bool_]]:
    """A field's values as 64 bits that are equal when they are, and where there is one."""
    values = np.ascontiguousarray(records[name])
    if values.dtype.kind == "f":
        return (values + 0.0).view(np.uint64), ~np.isnan(values)  # -0.0 is 0.0
    return values.view(np.uint64), values != (0 if name[0] == "h" else MISSING)


def nothing(name: str, kind: np.dtype[Any]) -> Any:
    """What stands for the least or greatest of no values."""
    if kind.kind == "f":
        return np.inf if name.startswith("lo") else -np.inf
    limits = np.iinfo(np.int64)
    return limits.max if name.startswith("lo") else limits.min


def merge(tiles: Values) -> Values:
    """Tiles sorted by start, those of one start made one."""
    if not len(tiles):
        return tiles
    first = np.flatnonzero(np.concatenate([[True], tiles["start"][1:] != tiles["start"][:-1]]))
    if len(first) == len(tiles):
        return tiles
    merged = np.empty(len(first), tiles.dtype)
    names = tiles.dtype.names or ()
    for name in names:
        function = np.minimum if name.startswith("lo") else np.maximum if name.startswith("hi") else np.add
        merged[name] = tiles["start"][first] if name == "start" else function.reduceat(tiles[name], first)
    for name in names:
        if name.startswith("m2_"):
            _merge_scatter(tiles, merged, first, name[3:])
    for kind, limbs in (("s", 2), ("q", 3)):
        for at in [name[3:] for name in names if name.startswith(f"{kind}0_")]:
            whole = carry([merged[f"{kind}{i}_{at}"] for i in range(limbs)])
            for i, limb in enumerate(whole):
                merged[f"{kind}{i}_{at}"] = limb
    return merged


def merge_pairs(starts: Ints, values: Values) -> Values:
    """Distinct pairs, sorted."""
    pairs = np.empty(len(starts), PAIR)
    pairs["start"], pairs["value"] = starts, values
    return np.unique(pairs)


def _merge_scatter(tiles: Values, merged: Values, first: Ints, at: str) -> None:
    """Squared differences from the mean of all, from those from the mean of each (Chan's formula)."""
    counts, sums = tiles[f"n{at}"], tiles[f"sum{at}"]
    until = np.append(first[1:], len(tiles))
    owner = spread(first, until)[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = merged[f"sum{at}"] / merged[f"n{at}"]
        away = np.where(counts > 0, sums / counts - mean[owner], 0.0)
    merged[f"m2_{at}"] += np.bincount(owner, counts * away * away, minlength=len(first))


def _extremes(kind: np.dtype[Any]) -> list[str]:
    return [name for name in kind.names or () if name[:2] in ("lo", "hi")]


def read_header(held: bytes) -> tuple[int, int, int]:
    """For tests: a header's mark of the load, time since which ids are known, and bytes of tiles."""
    load, since, size = np.frombuffer(held, HEADER, 1)[0].tolist()
    return load, since, size
