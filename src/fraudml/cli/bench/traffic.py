"""Made-up transactions in a project's own words: skewed keys, lognormal amounts, values that the schema accepts."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.cli.bench.requests import Requests, Stamp
from fraudml.errors import ConfigError
from fraudml.events.schema import Attribute, AttributeType, Schema, TimeColumn, TimeFormat

MOST_BODIES = 200_000  # different ones; a longer load uses them again, with new ids and times
MEDIAN_AMOUNT, SPREAD = 35.0, 1.1  # of the lognormal amounts, in major units
FREE_CATEGORIES = 20  # of a category whose vocabulary nobody declared
EXPECTED = b'"degraded":[]'
_BIRTHS = (-631_152_000, 1_104_537_600)  # 1950 to 2005, seconds since 1970: a time that is an attribute
_PER_SECOND = {TimeFormat.epoch_s: 1, TimeFormat.epoch_ms: 1_000, TimeFormat.epoch_us: 1_000_000}
_SECONDS = {TimeFormat.seconds_from: 1, TimeFormat.hours_from: 3_600, TimeFormat.days_from: 86_400}

Values = list[Any]


def requests(
    schema: Schema,
    key: str,
    *,
    entities: int,
    skew: float,
    seed: int,
    bodies: int = MOST_BODIES,
    batch: int = 0,
) -> Requests:
    """Requests for a service with this schema.

    Each entity has ``entities`` keys, of which the r-th most frequent comes up in proportion to ``1 / r ** skew``.
    Ids begin anew in every call, so that no load repeats the ids of another; everything else depends on ``seed``.
    """
    rng = np.random.default_rng(seed)
    columns = _columns(schema, rng, min(bodies, MOST_BODIES), entities, skew)
    made = [b"}"] * max(bodies, 1)
    if columns:
        names, rows = list(columns), zip(*columns.values(), strict=True)
        made = [b"," + msgspec.json.encode(dict(zip(names, row, strict=True)))[1:] for row in rows]
    return Requests(
        "/v1/batch-predict" if batch else "/v1/predict",
        made,
        {"Authorization": f"Bearer {key}"},
        _stamp(schema),
        batch,
        EXPECTED,
    )


def _stamp(schema: Schema) -> Stamp:
    identifier = msgspec.json.encode(schema.id_column).decode()
    moment = msgspec.json.encode(schema.event_time.column).decode()
    start = schema.event_time.start_us() if schema.event_time.format.needs_start else 0
    run = f"-bench-{secrets.token_hex(4)}"  # at the end: what ids begin with decides where they lie in an index
    return Stamp(
        f'{{{identifier}:"'.encode(),
        f'{run}",{moment}:'.encode(),
        schema.event_time.format,
        start,
        secrets.randbits(64),
    )


def _columns(schema: Schema, rng: np.random.Generator, count: int, entities: int, skew: float) -> dict[str, Values]:
    taken = {schema.id_column, schema.event_time.column}
    made: dict[str, Values] = {}
    for name, column in schema.entities.items():
        if column not in taken:
            made[column] = [f"{name}-{rank}" for rank in zipf(rng, count, entities, skew).tolist()]
    if schema.amount is not None and schema.amount.column not in taken:
        amounts = rng.lognormal(np.log(MEDIAN_AMOUNT), SPREAD, count)
        made[schema.amount.column] = np.round(amounts, schema.amount.decimals).tolist()
    for name, attribute in schema.attributes.items():
        column = schema.attribute_column(name)
        if column not in taken and column not in made:
            made[column] = _values(attribute, rng, count)
    return made


def zipf(rng: np.random.Generator, count: int, keys: int, skew: float) -> NDArray[np.int64]:
    """Ranks 0 to ``keys - 1``, rank r with a probability in proportion to ``1 / (r + 1) ** skew``.

    >>> ranks = zipf(np.random.default_rng(0), 100_000, 100, 1.0)
    >>> round(float((ranks == 0).sum() / (ranks == 9).sum()))
    10
    """
    if keys < 1:
        raise ConfigError("a load needs at least one entity; choose --entities 1 or more")
    weights = np.cumsum(1.0 / np.arange(1, keys + 1) ** skew)
    ranks: NDArray[np.int64] = np.searchsorted(weights, rng.random(count) * weights[-1], side="right")
    return ranks


def _values(attribute: Attribute, rng: np.random.Generator, count: int) -> Values:
    match attribute.type:
        case AttributeType.number:
            return list(np.round(rng.lognormal(1.0, 1.0, count), 3).tolist())
        case AttributeType.integer:
            return list(rng.poisson(3.0, count).tolist())
        case AttributeType.boolean:
            return list((rng.random(count) < 0.2).tolist())
        case AttributeType.category:
            words = attribute.vocabulary or tuple(f"value-{number}" for number in range(FREE_CATEGORIES))
            return [words[rank] for rank in zipf(rng, count, len(words), 1.0).tolist()]
        case AttributeType.time:
            return list(map(_time_writer(attribute), rng.integers(*_BIRTHS, count).tolist()))


def _time_writer(attribute: Attribute) -> Callable[[int], str | int | float]:
    written = attribute.format
    if written is TimeFormat.iso:
        return lambda second: datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if written in _PER_SECOND:
        scale = _PER_SECOND[written]
        return lambda second: second * scale
    start_s = TimeColumn("", written, attribute.timezone, attribute.start).start_us() // 1_000_000
    unit = _SECONDS[written]
    return lambda second: (second - start_s) / unit
