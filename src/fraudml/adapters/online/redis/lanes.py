"""What Redis holds of a FeatureSet: the lanes of each entity and, byte by byte, the records in them.

A lane is one string: the records of one entity and stream, in any order. An *exact* lane is nothing but records. A
*tiled* lane, for windows of a coarse resolution, begins with a header (:class:`Header`), folded tiles and the distinct
values in them; then come the records that are not folded yet.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from fraudml.adapters.online._plan import ExtremePlan, Kind, LastPlan, MomentPlan, Plan, WindowPlan
from fraudml.features.spec import Aggregation, FeatureSet

FORMAT = 1  # of the bytes in Redis: another one never reads these
ID_BYTES = 6
MISSING = -(2**63)
FOREVER_US = 2**62  # a window longer than this reaches back to the first event all the same
HEADER = np.dtype([("load", "<u4"), ("since", "<i8"), ("tiles", "<u4")])
LONGEST_KEY = 64
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class Field(NamedTuple):
    """A column of a record: ``at`` is its place in the row of values that state keeps.

    ``sort``: ``integer`` (int64, :data:`MISSING`), ``real`` (float64, NaN), ``present`` (0 or 1), ``hash`` (of a text,
    0 for missing), ``rank`` and ``prefix`` (of a category's value in the order of text, see :mod:`records`).
    """

    name: str
    at: int
    sort: str


SORTS = {"integer": "<i8", "real": "<f8", "present": "u1", "hash": "<u8", "rank": "<u4", "prefix": "<u8"}


@dataclass(frozen=True)
class Lane:
    """The records of one entity and stream. ``suffix`` ends its key; ``step_us`` is its windows' resolution.

    ``cells``: where among all cells its windows write, and where its ``last`` features do. ``record`` and ``tile`` are
    the layouts of the records; ``tile`` is empty in an exact lane. ``distinct``: the fields whose distinct values
    are counted; a tiled lane has a section for each. ``reach_us``: how far back any read can look.
    """

    suffix: str
    entity: int
    labels: bool
    step_us: int
    windows: WindowPlan | None
    last: LastPlan | None
    cells: tuple[int, int]
    fields: tuple[Field, ...]
    record: np.dtype[Any]
    tile: np.dtype[Any]
    distinct: tuple[Field, ...]
    reach_us: int

    @property
    def tiled(self) -> bool:
        """Whether old events become tiles."""
        return bool(self.tile.names)

    @property
    def id_bytes(self) -> int:
        """How many bytes at a record's begin tell it from all others."""
        return ID_BYTES + 8 + (1 if self.labels else 0)

    @property
    def header_bytes(self) -> int:
        """The length of the header; 0 in an exact lane."""
        return HEADER.itemsize + 4 * len(self.distinct) if self.tiled else 0


@dataclass(frozen=True)
class Layout:
    """All lanes of a FeatureSet, by entity. ``width``: number of cells; ``positions``: each state feature's cell."""

    lanes: tuple[tuple[Lane, ...], ...]
    plan: Plan
    width: int
    positions: tuple[int, ...]
    namespace: str

    def keys(self, feature_set: FeatureSet) -> list[bytes]:
        """For each entity, how the keys of its lanes begin."""
        return [f"fraudml:{{{self.namespace}:{name}:".encode() for name in feature_set.schema.entity_names]


def lay_out(feature_set: FeatureSet, plan: Plan, project: str) -> Layout:
    """The lanes that a FeatureSet needs. The namespace tells it from others that are held otherwise."""
    starts = np.cumsum([0, *(len(table.cells) for table in plan.windows)]).tolist()
    last_starts = np.cumsum([starts[-1], *(len(table.features) for table in plan.lasts)]).tolist()
    lasts = {table.entity: (table, start) for table, start in zip(plan.lasts, last_starts, strict=False)}
    lanes: list[list[Lane]] = [[] for _ in feature_set.schema.entity_names]
    for table, start in zip(plan.windows, starts, strict=False):
        exact = not table.labels and (table.resolution_us == 1 or not table.lengths_us)
        last, last_start = lasts.pop(table.entity, (None, 0)) if exact else (None, 0)
        lanes[table.entity].append(_lane(feature_set, plan, table, last, (start, last_start), exact))
    for entity, (last, last_start) in lasts.items():
        lanes[entity].append(_lane(feature_set, plan, None, last, (0, last_start), True))
    # the first lane with transactions is the one that tells which are late
    ordered = tuple(tuple(sorted(each, key=lambda lane: (lane.labels, lane.step_us))) for each in lanes)
    document = [FORMAT, feature_set.schema.entity_names, [_describe(feature_set, plan, x) for y in ordered for x in y]]
    mark = blake2b(json.dumps(document).encode(), digest_size=5).hexdigest()
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", project)[:32]
    return Layout(ordered, plan, last_starts[-1], plan.positions, f"{name}:{mark}")


def key_text(key: str) -> bytes:
    """An entity key as a part of a Redis key: no braces, spaces or control characters, and not long.

    >>> key_text("c-17"), key_text("a}b c"), len(key_text("x" * 10_000))
    (b'c-17', b'a%7Db%20c', 34)
    """
    if _PLAIN.fullmatch(key):
        return key.encode()
    raw = key.encode("utf-8", "surrogatepass")
    text = quote(raw, safe="")
    if len(text) <= LONGEST_KEY:
        return text.encode()
    return b"%%" + blake2b(raw, digest_size=16).hexdigest().encode()  # quote() writes no two of them in a row


def _lane(
    feature_set: FeatureSet,
    plan: Plan,
    windows: WindowPlan | None,
    last: LastPlan | None,
    cells: tuple[int, int],
    exact: bool,
) -> Lane:
    labels = windows is not None and windows.labels
    tiled = not exact and windows is not None and windows.resolution_us > 1
    step = windows.resolution_us if tiled and windows is not None else 1
    distinct = _distinct(windows)
    fields = [] if labels else _fields(feature_set, plan, windows, last)
    head = [("id", f"V{ID_BYTES}"), *([("fraud", "u1")] if labels else []), ("time", "<i8")]
    record = np.dtype([*head, *((field.name, SORTS[field.sort]) for field in fields)])
    reach = max(min(windows.horizon_us, FOREVER_US) if windows is not None and windows.lengths_us else 0, 0)
    reach = max(reach, min(last.horizon_us, FOREVER_US) if last is not None else 0)
    return Lane(
        suffix=("l" if labels else "t" if tiled else "e") + (str(step) if tiled else ""),
        entity=windows.entity if windows is not None else last.entity if last is not None else 0,
        labels=labels,
        step_us=step,
        windows=windows if windows is not None and windows.lengths_us else None,
        last=last,
        cells=cells,
        fields=tuple(fields),
        record=record,
        tile=_tile(windows) if tiled and windows is not None else np.dtype([]),
        distinct=distinct,
        reach_us=reach,
    )


def _distinct(windows: WindowPlan | None) -> tuple[Field, ...]:
    if windows is None:
        return ()
    wanted = [each for each in windows.extremes if each.agg is Aggregation.nunique]
    return tuple(_hash(each.at) if each.kind is Kind.presence else _number(each.at, each.kind) for each in wanted)


def _fields(feature_set: FeatureSet, plan: Plan, windows: WindowPlan | None, last: LastPlan | None) -> list[Field]:
    found: dict[str, Field] = {}
    for field in _distinct(windows):
        found[field.name] = field
    columns: list[MomentPlan | ExtremePlan] = [*windows.moments, *windows.extremes] if windows is not None else []
    for each in columns:
        if each.kind is not Kind.presence:
            found[f"x{each.at}"] = _number(each.at, each.kind)
        elif f"h{each.at}" not in found:
            found[f"p{each.at}"] = Field(f"p{each.at}", each.at, "present")
    for at in last.at if last is not None else ():
        column = plan.row[at]
        if str in column.allowed:
            found[f"r{at}"] = Field(f"r{at}", at, "rank")
            if last is not None and at != last.at[-1]:  # orders two unknown values, which read as the same code
                found[f"s{at}"] = Field(f"s{at}", at, "prefix")
        else:
            found[f"x{at}"] = _number(at, Kind.real if float in column.allowed else Kind.integer)
    return sorted(found.values())


def _hash(at: int) -> Field:
    return Field(f"h{at}", at, "hash")


def _number(at: int, kind: Kind) -> Field:
    return Field(f"x{at}", at, "real" if kind is Kind.real else "integer")


def _tile(windows: WindowPlan) -> np.dtype[Any]:
    """The layout of a tile: ``n`` values, their sum and sum of squares as limbs (see :mod:`tiles`), or for floats
    their sum and the sum of squared differences from their mean; least and greatest."""
    parts = [("start", "<i8"), ("count", "<i8")]
    for moment in windows.moments:
        at, wanted = moment.at, set(moment.wanted)
        summed = moment.kind is not Kind.presence and wanted - {Aggregation.count}
        if moment.missing or (summed and moment.kind is Kind.real):
            parts.append((f"n{at}", "<i8"))
        if summed and moment.kind is Kind.integer:
            parts += [(f"s{i}_{at}", "<i8") for i in range(2)]
            if Aggregation.std in wanted:
                parts += [(f"q{i}_{at}", "<i8") for i in range(3)]
        elif summed:
            parts.append((f"sum{at}", "<f8"))
            if Aggregation.std in wanted:
                parts.append((f"m2_{at}", "<f8"))
    for extreme in windows.extremes:
        if extreme.agg is not Aggregation.nunique:
            name = "lo" if extreme.agg is Aggregation.min else "hi"
            parts.append((f"{name}{extreme.at}", "<f8" if extreme.kind is Kind.real else "<i8"))
    return np.dtype(parts)


def _describe(feature_set: FeatureSet, plan: Plan, lane: Lane) -> list[Any]:
    """What decides the meaning of a lane's bytes, and how far back they reach."""
    columns = [plan.row[field.at].name for field in lane.fields]
    attributes = feature_set.schema.attributes
    ranked = [attributes[plan.row[field.at].name].vocabulary for field in lane.fields if field.sort == "rank"]
    tile = lane.tile.descr if lane.tiled else []
    return [lane.suffix, lane.entity, lane.record.descr, tile, columns, ranked, lane.reach_us]
