"""From the bytes of lanes to the cells of a batch."""

from __future__ import annotations

import struct
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from redis import exceptions

from fraudml.adapters.online._plan import Plan
from fraudml.adapters.online.redis import last, windows
from fraudml.adapters.online.redis.failures import failure
from fraudml.adapters.online.redis.groups import ZERO, Group, newest, pieces
from fraudml.adapters.online.redis.lanes import Lane, Layout
from fraudml.adapters.online.redis.post import Read
from fraudml.adapters.online.redis.records import Records, last_order
from fraudml.adapters.online.redis.sight import Sight, reduce
from fraudml.adapters.online.redis.tiles import Folded, is_empty, take_apart

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NEVER = -(2**63)


class Seen(NamedTuple):
    """What was held: of each view the records ``[first, until)`` with these times."""

    times: Ints
    first: Ints
    until: Ints


class Answer:
    """Reads features from lanes."""

    def __init__(self, layout: Layout, plan: Plan, records: Records) -> None:
        self._vocabularies = records.vocabularies
        # its first lane with transactions tells for an entity which of them are late
        clocks = [next((lane for lane in lanes if not lane.labels), None) for lanes in layout.lanes]
        self._clocks = set(map(id, clocks))
        self._orders = {each.entity: last_order(each, plan) for each in plan.lasts}

    def of(self, read: Read, cells: Floats, late: NDArray[np.bool_]) -> Seen:
        """Write the cells of a lane's features, and which transactions are late."""
        try:
            return self._of(read, cells, late)
        except (ValueError, struct.error) as error:
            raise failure(exceptions.ResponseError(f"WRONGTYPE {error}")) from error

    def _of(self, read: Read, cells: Floats, late: NDArray[np.bool_]) -> Seen:
        lane, group = read.lane, read.group
        width = lane.record.itemsize
        held = [_without(read, key) if key in read.repeated else read.held[key] for key in range(len(read.held))]
        folded: list[Folded] | None = None
        if lane.tiled:
            if all(is_empty(lane, each) for each in held):
                held = [each[lane.header_bytes :] for each in held]
            else:
                folded = [take_apart(lane, each) for each in held]
                held = [each.raw for each in folded]
        parts, lengths = pieces(group, held, read.new, width)
        records = np.frombuffer(b"".join(parts), lane.record)
        times = np.ascontiguousarray(records["time"])
        if group.views == 1:
            first, until = ZERO, np.array([len(held[int(group.key[0])]) // width])
            views = np.zeros(len(times), np.int64)
        else:
            counts = lengths // width
            first = np.cumsum(counts) - counts
            until = first + (np.fromiter(map(len, held), np.int64, len(held)) // width)[group.key]
            views = np.repeat(np.arange(group.views), counts)
        seen = Seen(times, first, until)
        if folded is None:
            sight = Sight(views, times, group.views)
            source: windows.Records | windows.Tiles = windows.Records(lane, sight, records, group.views)
        else:
            source, sight = self._tiled(lane, group, folded, (views, records)), None
        if lane.windows is not None:
            out = np.empty((len(group.events), len(lane.windows.cells)))
            windows.read(lane, source, group.view, group.times, out)
            cells[group.events, lane.cells[0] : lane.cells[0] + out.shape[1]] = out
        if lane.last is not None and sight is not None:
            out = np.empty((len(group.events), len(lane.last.features)))
            order = self._orders[lane.entity]
            last.read(lane.last, order, self._vocabularies, (sight, records), (group.view, group.times), out)
            cells[group.events, lane.cells[1] : lane.cells[1] + out.shape[1]] = out
        if id(lane) in self._clocks:
            before = reduce(np.maximum, times, first, until, NEVER)
            if folded is not None:
                before = np.maximum(before, _newest_tiles(lane, folded)[group.key])
            late[group.events] |= newest(group, before)[group.view] > group.times
        return seen

    def _tiled(
        self, lane: Lane, group: Group, folded: list[Folded], records: tuple[Ints, NDArray[np.void]]
    ) -> windows.Tiles:
        keys = group.key.tolist()
        tiles = [folded[key].tiles for key in keys]
        lengths = np.fromiter(map(len, tiles), np.int64, len(tiles)) // lane.tile.itemsize
        owners = np.repeat(np.arange(len(tiles)), lengths)
        pairs = [windows.pairs_of([folded[key].pairs[number] for key in keys]) for number in range(len(lane.distinct))]
        joined = np.frombuffer(b"".join(tiles), lane.tile)
        return windows.Tiles(lane, (owners, joined), records, pairs, group.views)


def blank(layout: Layout) -> Floats:
    """The cells of a transaction whose keys are all missing."""
    empty = [*(table.blank for table in layout.plan.windows), *(table.blank for table in layout.plan.lasts)]
    return np.array(list(chain.from_iterable(empty)), dtype=np.float64)


def _without(read: Read, key: int) -> bytes:
    """What a lane held, without the batch's own records: those of a batch that is sent again."""
    lane, held = read.lane, read.held[key]
    width, size, head = lane.record.itemsize, lane.id_bytes, b""
    if lane.tiled:
        raw = len(take_apart(lane, held).raw)
        head, held = held[: len(held) - raw], held[len(held) - raw :]
    first, until = int(read.group.first[key]), int(read.group.until[key])
    own = {read.new[at * width : at * width + size] for at in range(first, until)}
    kept = [held[at : at + width] for at in range(0, len(held), width) if held[at : at + size] not in own]
    return b"".join([head, *kept])


def _newest_tiles(lane: Lane, folded: list[Folded]) -> Ints:
    found = [np.frombuffer(each.tiles, lane.tile)["start"].max(initial=NEVER) for each in folded]
    return np.array(found, dtype=np.int64)
