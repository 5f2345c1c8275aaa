"""Lanes of a batch to Redis and back, in one round trip."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.crc import key_slot

from fraudml.adapters.online.redis.calls import Call, Calls
from fraudml.adapters.online.redis.epoch import Epoch
from fraudml.adapters.online.redis.failures import failure
from fraudml.adapters.online.redis.groups import Group
from fraudml.adapters.online.redis.lanes import Lane, key_text
from fraudml.adapters.online.redis.link import Link
from fraudml.adapters.online.redis.tiles import empty_header
from fraudml.adapters.online.redis.wire import Command, Script

TOGETHER = 200  # lanes in one call of the script: others wait for its end, about a millisecond
BYTES = 2**18  # of new records in such a call, or one lane with more: some milliseconds
SLACK_US = 3_600_000_000
RING = 1_024  # ids that a tiled lane remembers of what was folded


@dataclass
class Read:
    """A lane of each key of a group: ``new`` are the batch's records in the group's order.

    ``held``: what each key's lane held before; ``repeated``: the keys (by number) some of whose records were in it.
    """

    lane: Lane
    group: Group
    new: bytes
    held: list[bytes] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)


class Part(NamedTuple):
    """One call of the script, and the places of its lanes."""

    command: Command
    places: Sequence[int]


class Options(NamedTuple):
    """``mark``, ``least`` and ``careful`` are what ``lanes.lua`` says of them."""

    mark: bytes = b""
    least: int | None = None
    careful: bool = False


LIVE = Options()


class Post:
    """Makes the script's calls. ``beyond_us``: how long a lane is kept beyond the reach of its windows."""

    def __init__(self, link: Link, calls: Calls, prefixes: Sequence[bytes], beyond_us: int) -> None:
        self._link = link
        self._calls = calls
        self._prefixes = prefixes
        self._beyond_us = beyond_us
        self._lanes = Script.read("lanes.lua")
        self._replace = Script.read("replace.lua")

    def send(
        self,
        reads: Sequence[Read],
        epoch: Epoch,
        first: Sequence[Command],
        options: Options = LIVE,
        *,
        call: Call | None = None,
    ) -> list[Any]:
        """Send what is to be added, fill in what the lanes held, and return the marks of the nodes touched.

        ``first`` are commands to send before, whose answers do not matter. The marks are read last: state that was
        emptied meanwhile is noticed. ``call``: to be noted.
        """
        parts: list[tuple[Read, Part]] = []
        for read in reads:
            width = read.lane.record.itemsize
            slices = zip(read.group.first.tolist(), read.group.until.tolist(), strict=True)
            new = [read.new[a * width : b * width] for a, b in slices]
            keys = [self.key(read.lane, key) for key in read.group.keys]
            newest = int(read.group.times.max()) if read.new else 0
            read.held = [b""] * len(keys)
            parts += [(read, part) for part in self.parts(read.lane, keys, new, newest, options)]
        nodes = {self._link.node_of(part.command.key): None for _, part in parts}
        marks = epoch.asked(nodes)
        if call is not None and marks.commands:
            first = [*self._calls.note(marks.commands[0].key, call), *first]
        commands = [*first, *(part.command for _, part in parts)]
        answers = self._link.answers([*commands, *marks.commands])
        for answer in answers[len(first) :]:
            if isinstance(answer, Exception):
                raise failure(answer)
        for (read, part), answer in zip(parts, answers[len(first) : len(commands)], strict=True):
            for place, held in zip(part.places, answer[:-1], strict=True):
                read.held[place] = held
            read.repeated += [part.places[number - 1] for number in answer[-1]]
        return [*answers[len(commands) :], *marks.unmarked]

    def parts(
        self, lane: Lane, keys: Sequence[bytes], new: Sequence[bytes], newest_us: int, options: Options = LIVE
    ) -> Iterator[Part]:
        """The calls that add records to lanes; ``newest_us`` is the latest of their times."""
        ttl = self.keep_ms(lane, newest_us)
        least = b"" if options.least is None else options.least
        fixed = (ttl, lane.record.itemsize, lane.id_bytes, empty_header(lane), options.mark, least)
        careful = b"1" if options.careful else b""
        for places in self._together(keys, new):
            names = [keys[i] for i in places]
            rings = [ring(name) for name in names] if lane.tiled else []
            words = (len(names) + len(rings), *names, *rings, len(names), *fixed, careful, *(new[i] for i in places))
            yield Part(Command(names[0], words, self._lanes), places)

    def replace(
        self, lane: Lane, key: bytes, replaced: tuple[int, str], new: bytes, ids: bytes, beside: int = 0
    ) -> Command:
        """The call that puts ``new`` in place of the first so many bytes with this SHA-1. The lane remembers ``ids``,
        and of those before :data:`RING` without as many bytes as ``beside``."""
        keys = [key, ring(key)] if lane.tiled else [key]
        remembered = (ids, RING * lane.id_bytes + beside, lane.id_bytes)
        return Command(key, (len(keys), *keys, *replaced, new, self.keep_ms(lane, 0), *remembered), self._replace)

    def keep_ms(self, lane: Lane, newest_us: int) -> int:
        """How long a lane is kept: until no read can see its newest event, if its time is that or earlier."""
        ahead_us = max(0, newest_us - time.time_ns() // 1_000)
        return min((lane.reach_us + self._beyond_us + SLACK_US + ahead_us) // 1_000, 2**52)

    def key(self, lane: Lane, key: str) -> bytes:
        """The name of an entity's lane."""
        return b"".join((self._prefixes[lane.entity], key_text(key), b"}:", lane.suffix.encode()))

    def _together(self, keys: Sequence[bytes], new: Sequence[bytes]) -> Iterator[Sequence[int]]:
        """The places of keys that may go into one call: in a cluster those of one slot."""
        if len(keys) == 1:
            yield range(1)
            return
        if not self._link.is_cluster:
            first = size = 0
            for place, length in enumerate(map(len, new)):
                if place - first == TOGETHER or (size and size + length > BYTES):
                    yield range(first, place)
                    first, size = place, 0
                size += length
            if first < len(keys):
                yield range(first, len(keys))
            return
        slots: dict[int, list[int]] = {}
        for place, key in enumerate(keys):
            slots.setdefault(key_slot(key), []).append(place)
        yield from slots.values()


def ring(key: bytes) -> bytes:
    """The name of the list of ids that were folded last."""
    return key + b"i"
