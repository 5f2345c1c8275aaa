"""How much state there is: exactly while it is small, else estimated from a sample of the keys."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fraudml.adapters.online.redis.failures import DRIVER, failure
from fraudml.adapters.online.redis.lanes import Lane, Layout
from fraudml.adapters.online.redis.link import Client, Link
from fraudml.adapters.online.redis.tiles import take_apart
from fraudml.features.spec import FeatureSet

SAMPLE = 20_000  # keys looked at on each node at most
STEP = 1_000


def count(link: Link, layout: Layout, feature_set: FeatureSet) -> dict[str, Any]:
    """``entities``, ``events``, and whether they are ``estimated``."""
    entities: float = 0
    events: dict[tuple[int, str], float] = {}
    estimated = False
    for node in link.each_node():
        try:
            names, share = _names(node, layout.namespace)
            held = _count(node, names, layout, feature_set)
        except DRIVER as error:
            raise failure(error) from error
        estimated |= share < 1
        entities += len({tag for tag, _ in names}) / share
        for which, number in held.items():
            events[which] = events.get(which, 0) + number / share
    return {"entities": round(entities), "events": round(max(events.values(), default=0)), "estimated": estimated}


def _names(node: Client, namespace: str) -> tuple[list[tuple[bytes, bytes]], float]:
    """The lanes on a node as (entity and key, suffix), and what share of all they are."""
    pattern = re.compile(rb"fraudml:\{" + re.escape(namespace.encode()) + rb":([^}]*)\}:([elt]\d*)")
    found: set[tuple[bytes, bytes]] = set()
    cursor, looked = 0, 0
    while True:
        cursor, keys = node.scan(cursor, count=STEP)
        looked += len(keys)
        matches = [pattern.fullmatch(key) for key in keys]
        found.update((match[1], match[2]) for match in matches if match)
        if not cursor:
            return sorted(found), 1.0
        if looked >= SAMPLE:
            return sorted(found), looked / max(looked, int(node.dbsize()))


def _count(
    node: Client, names: list[tuple[bytes, bytes]], layout: Layout, feature_set: FeatureSet
) -> dict[tuple[int, str], float]:
    """The transactions in each kind of lane."""
    lanes = {
        (name.encode(), lane.suffix.encode()): lane
        for name, own in zip(feature_set.schema.entity_names, layout.lanes, strict=True)
        for lane in own
        if not lane.labels
    }
    events: dict[tuple[int, str], float] = {}
    for first in range(0, len(names), STEP):
        asked: list[Lane] = []
        pipe = node.pipeline(transaction=False)
        for tag, suffix in names[first : first + STEP]:
            lane = lanes.get((tag.partition(b":")[0], suffix))
            if lane is not None:
                key = b"fraudml:{%s:%s}:%s" % (layout.namespace.encode(), tag, suffix)
                asked.append(lane)
                pipe.execute_command("STRLEN" if not lane.tiled else "GET", key)
        for lane, answer in zip(asked, pipe.execute(), strict=True):
            which = (lane.entity, lane.suffix)
            events[which] = events.get(which, 0) + _events(lane, answer)
    return events


def _events(lane: Lane, answer: Any) -> int:
    if not lane.tiled:
        return int(answer) // lane.record.itemsize
    folded = take_apart(lane, answer or b"")
    tiles = np.frombuffer(folded.tiles, lane.tile)
    return int(tiles["count"].sum()) + len(folded.raw) // lane.record.itemsize
