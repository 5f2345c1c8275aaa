"""History in bulk: rows are gathered, grouped by entity at once, and sent thousands of lanes at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.adapters.online._rows import check_history
from fraudml.adapters.online.redis import records, tidy
from fraudml.adapters.online.redis.answer import NEVER
from fraudml.adapters.online.redis.epoch import Epoch
from fraudml.adapters.online.redis.lanes import Lane, Layout
from fraudml.adapters.online.redis.link import Link
from fraudml.adapters.online.redis.post import Options, Part, Post
from fraudml.adapters.online.redis.tiles import empty_header, take_apart
from fraudml.events.schema import EVENT_TIME, IS_FRAUD, KNOWN_AT, TRANSACTION_ID, normal_column
from fraudml.features.spec import FeatureSet

ROWS = 2_000_000  # gathered rows that are pruned and, if still as many, sent
CALLS = 10  # of the script in one round trip
TIMEOUT_S = 10.0  # of one round trip; nobody waits for it
RECENT = 0.95  # the share of rows of a batch that lie before what counts as its newest time
FRESH_US = 600_000_000  # events so new when the load began may come again: they are not folded

Ints = NDArray[np.int64]


class Loader:
    """Adds history to lanes; leaves out what they hold."""

    def __init__(
        self, feature_set: FeatureSet, layout: Layout, encoder: records.Records, link: Link, post: Post, epoch: Epoch,
        beyond_us: int,
    ) -> None:  # fmt: skip
        schema = feature_set.schema
        columns = layout.plan.row
        names = [TRANSACTION_ID, EVENT_TIME, *schema.entity_names, *(normal_column(column.name) for column in columns)]
        self._names = list(dict.fromkeys([*names, IS_FRAUD, KNOWN_AT]))
        self._required = [EVENT_TIME, *(normal_column(column.name) for column in columns if column.required)]
        self._entities = schema.entity_names
        self._layout, self._encoder, self._link, self._post, self._epoch = layout, encoder, link, post, epoch
        lanes = [lane for own in layout.lanes for lane in own]
        self._beyond_us = beyond_us
        self._reach_us = beyond_us + max((lane.reach_us for lane in lanes), default=0)
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._mark: str | None = None  # of what was gathered
        self._newest_us = NEVER
        self._fold_before_us = NEVER

    def begin(self) -> None:
        """A load is claimed or given up: what was gathered for an earlier one is nobody's."""
        self._batches, self._rows, self._newest_us, self._mark = [], 0, NEVER, None
        self._fold_before_us = time.time_ns() // 1_000 - FRESH_US

    def add(self, batch: pa.RecordBatch) -> None:
        """Add history: at once, or while this process loads all of it, with more of it."""
        if not batch.num_rows:
            return
        check_history(batch, self._names, self._required)
        times = batch.column(EVENT_TIME).to_numpy()
        place = int(RECENT * (len(times) - 1))
        self._newest_us = max(self._newest_us, int(np.partition(times, place)[place]))
        self._batches.append(batch.select(self._names))
        self._rows += batch.num_rows
        if not self._epoch.token:
            self.flush()
            return
        if self._rows >= ROWS:
            self._prune()
            if self._rows >= ROWS // 2:
                self.flush()

    def note(self, mark: str) -> None:
        """A mark for all that was added so far: it is set when that was sent."""
        self._mark = mark
        if not self._batches:
            self._set_mark()

    def flush(self) -> None:
        """Send what was gathered."""
        if not self._batches:
            return
        if self._epoch.token:
            self._prune()
        events = pa.Table.from_batches(self._batches).combine_chunks().to_batches()
        self._batches, self._rows = [], 0
        for batch in events:
            self._send(batch)
        self._set_mark()

    def _set_mark(self) -> None:
        if self._mark is not None:
            self._epoch.set_mark(self._mark)
            self._mark = None

    def _prune(self) -> None:
        """Forget rows that no read can see."""
        table = pa.Table.from_batches(self._batches)
        first = self._newest_us - self._reach_us
        seen = pc.or_kleene(pc.greater_equal(table[EVENT_TIME], first), pc.greater_equal(table[KNOWN_AT], first))
        kept = table.filter(pc.fill_null(seen, False))
        self._batches, self._rows = kept.to_batches(), kept.num_rows

    def _send(self, events: pa.RecordBatch) -> None:
        reported = records.reported(events)
        verdicts = reported.column(IS_FRAUD).cast(pa.uint8()).to_numpy(zero_copy_only=False)
        streams = [
            (False, events, EVENT_TIME, self._encoder.of_history(events)),
            (True, reported, KNOWN_AT, {"fraud": verdicts}),
        ]
        skipped = self._complete_nodes()
        for labels, rows, clock, fields in streams:
            if not rows.num_rows or not any(lane.labels is labels for own in self._layout.lanes for lane in own):
                continue
            ids, times = records.history_ids(rows), rows.column(clock).to_numpy(zero_copy_only=False)
            for entity, own in zip(self._entities, self._layout.lanes, strict=True):
                wanted = [lane for lane in own if lane.labels is labels]
                if not wanted:
                    continue
                names, order, first, until = _by_key(rows.column(entity), times)
                for lane in wanted:
                    packed = records.pack(lane, ids, times, fields)[order]
                    packed, starts, ends = _unique(lane, packed, first, until)
                    self._lanes(lane, names, packed, (starts, ends), skipped)

    def _lanes(
        self, lane: Lane, names: Sequence[str], packed: NDArray[Any], slices: tuple[Ints, Ints], skipped: set[object]
    ) -> None:
        """Add to one lane of each key, and fold what makes it long."""
        width, joined = lane.record.itemsize, packed.tobytes()
        keys = [self._post.key(lane, name) for name in names]
        new = [joined[a * width : b * width] for a, b in zip(slices[0].tolist(), slices[1].tolist(), strict=True)]
        if skipped:
            left = [i for i, key in enumerate(keys) if self._link.node_of(key) not in skipped]
            keys, new = [keys[i] for i in left], [new[i] for i in left]
        loads = bool(self._epoch.token)
        least = len(empty_header(lane)) + tidy.MOST_RAW * width if lane.tiled else 2**52
        options = Options(self._epoch.stamp if loads and lane.tiled else b"", least, careful=not loads)
        newest = int(packed["time"].max(initial=0))
        for parts in _several(self._post.parts(lane, keys, new, newest, options)):
            answers = self._exchange(parts)
            if not lane.tiled or not loads:
                continue
            shorter = []
            for part, answer in zip(parts, answers, strict=True):
                repeated = {number - 1 for number in answer[-1]}
                for number, (place, held) in enumerate(zip(part.places, answer[:-1], strict=True)):
                    if held is not None and number not in repeated:
                        shorter += self._fold(lane, keys[place], held, new[place])
            self._link.answers(shorter, TIMEOUT_S)

    def _exchange(self, parts: list[Part]) -> list[Any]:
        self._epoch.check_lease()
        nodes = {self._link.node_of(part.command.key): None for part in parts}
        marks = self._epoch.asked(nodes).commands if self._epoch.token else []
        answers = self._link.exchange([*(part.command for part in parts), *marks], TIMEOUT_S)
        if marks:
            self._epoch.check_load(answers[len(parts) :])
        return answers[: len(parts)]

    def _fold(self, lane: Lane, key: bytes, held: bytes, new: bytes) -> list[Any]:
        """Fold what was just loaded, but for the newest: others' events must stay as they are, to be left out."""
        bytes_ = (held or empty_header(lane)) + new
        folded = take_apart(lane, bytes_)
        folded = replace(folded, head=self._epoch.stamp + folded.head[4:])
        raw = np.frombuffer(folded.raw, lane.record)
        times = raw["time"]
        chosen = np.arange(len(raw)) >= len(raw) - len(new) // lane.record.itemsize
        before = min(self._fold_before_us, int(times.max()))
        if lane.labels:
            before = min(before, self._newest_us - self._beyond_us) // lane.step_us * lane.step_us
        shorter = tidy.fold(lane, folded, chosen & (times < before), NEVER)
        if shorter is None:
            return []
        # all ids: a load that is interrupted and goes on sends these rows once more
        return [self._post.replace(lane, key, tidy.stamp(bytes_), *shorter, beside=len(shorter[1]))]

    def _complete_nodes(self) -> set[object]:
        """Nodes that have their history: a load is for the others."""
        if not self._epoch.token:
            return set()
        return self._epoch.loaded_nodes()


def _by_key(keys: pa.Array, times: Ints) -> tuple[list[str], Ints, Ints, Ints]:
    """The keys, the rows that have one sorted by (key, time), and each key's part of them."""
    encoded = keys.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.flatnonzero(codes >= 0)
    rows = rows[np.argsort(times[rows], kind="stable")]  # fast: history is mostly in order
    rows = rows[np.argsort(codes[rows], kind="stable")]
    every = np.arange(len(encoded.dictionary))
    found = codes[rows]
    first, until = np.searchsorted(found, every, "left"), np.searchsorted(found, every, "right")
    return encoded.dictionary.to_pylist(), rows, first, until


def _unique(lane: Lane, packed: NDArray[Any], first: Ints, until: Ints) -> tuple[NDArray[Any], Ints, Ints]:
    """Without rows that are there twice; sorted rows, so that they can only be among those of one time."""
    owner = np.repeat(np.arange(len(first)), until - first)
    ties = (packed["time"][1:] == packed["time"][:-1]) & (owner[1:] == owner[:-1])
    if not ties.any():
        return packed, first, until
    ids = np.ascontiguousarray(packed).view(np.uint8).reshape(len(packed), -1)[:, : lane.id_bytes]
    keyed = np.concatenate([owner.view(np.uint8).reshape(len(owner), 8), ids], axis=1)
    kept = np.sort(np.unique(keyed, axis=0, return_index=True)[1])
    every = np.arange(len(first))
    return packed[kept], np.searchsorted(owner[kept], every, "left"), np.searchsorted(owner[kept], every, "right")


def _several(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """Calls for one round trip."""
    waiting: list[Part] = []
    for part in parts:
        waiting.append(part)
        if len(waiting) == CALLS:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
