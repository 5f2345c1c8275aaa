"""Folding by hand: tiles of integers of any size, of floats and of distinct values; what stays and what goes."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from fraudml.adapters.online._plan import compile_plan
from fraudml.adapters.online.redis import moments, records, tidy
from fraudml.adapters.online.redis.groups import group, newest
from fraudml.adapters.online.redis.lanes import Lane, lay_out
from fraudml.adapters.online.redis.sight import Sight, distinct, parts, previous, spread
from fraudml.adapters.online.redis.tiles import empty_header, read_header, take_apart
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.features.moments import exact_std, std_of_integers
from fraudml.features.spec import (
    Aggregation,
    Feature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    LastFeature,
    WindowFeature,
)

HOUR_US = 3_600_000_000
SCHEMA = Schema(
    TimeColumn("time"),
    "id",
    {"card": "card"},
    AmountColumn("amount", optional=True),
    {
        "lat": Attribute(AttributeType.number),
        "shop": Attribute(AttributeType.category),
        "country": Attribute(AttributeType.category, vocabulary=("FR", "DE")),
    },
)


def window(agg: Aggregation, of: str | None, resolution: str = "1h", length: str = "2d") -> WindowFeature:
    name = f"{agg}_{of}_{length}_{resolution}"
    return WindowFeature(name=name, over="card", agg=agg, of=of, length=length, resolution=resolution)


def lanes_of(*features: Feature, project: str = "p") -> tuple[tuple[Lane, ...], str]:
    feature_set = FeatureSet(SCHEMA, features)
    layout = lay_out(feature_set, compile_plan(feature_set), project)
    return layout.lanes[0], layout.namespace


def lane_of(*features: Feature) -> Lane:
    return lanes_of(*features)[0][0]


def packed(lane: Lane, times: list[int], values: list[object]) -> bytes:
    """Records with these values in every field of numbers."""
    ids = records.ids_of([f"t{i}" for i in range(len(times))])
    fields = {field.name: np.array(values, records.SORTS[field.sort]) for field in lane.fields}
    fields["fraud"] = np.array([bool(value) for value in values], np.uint8)
    return records.pack(lane, ids, np.array(times, np.int64), fields).tobytes()


def tiles_in(lane: Lane, held: bytes) -> np.ndarray:
    return np.frombuffer(take_apart(lane, held).tiles, lane.tile)


def test_integers_of_any_size_are_exact_in_tiles() -> None:
    lane = lane_of(*[window(agg, "amount") for agg in Aggregation if agg is not Aggregation.nunique])
    rng = random.Random(1)
    amounts = [rng.choice([-1, 1]) * rng.randrange(2**62) for _ in range(150)]
    times = [i * HOUR_US // 40 for i in range(150)]
    shorter = tidy.shorten(lane, empty_header(lane) + packed(lane, times, list(amounts)), tidy.NEVER)
    assert shorter is not None
    tiles = tiles_in(lane, shorter[0])
    assert tiles["count"].tolist() == [40, 40, 38]
    hours = [amounts[:40], amounts[40:80], amounts[80:118]]
    assert moments.join([tiles[f"s{i}_0"] for i in range(2)]).tolist() == [sum(hour) for hour in hours]
    squares = [sum(x * x for x in hour) for hour in hours]
    assert moments.join([tiles[f"q{i}_0"] for i in range(3)]).tolist() == squares
    assert 118 + len(take_apart(lane, shorter[0]).raw) // lane.record.itemsize == 150


def test_deviations_of_floats_with_a_large_mean_survive_folding() -> None:
    lane = lane_of(window(Aggregation.std, "lat"))
    rng = random.Random(2)
    values = [1e9 + rng.random() for _ in range(140)]
    held = empty_header(lane) + packed(lane, [i * HOUR_US // 200 for i in range(70)], list(values[:70]))
    for first in range(70, 140, 7):  # folded many times over
        held += packed(lane, [i * HOUR_US // 200 for i in range(first, first + 7)], list(values[first : first + 7]))
        shorter = tidy.shorten(lane, held, tidy.NEVER)
        held = shorter[0] if shorter else held
    tile = tiles_in(lane, held)[0]
    scatter = tile["m2_0"] / (tile["n0"] - 1)
    assert np.sqrt(scatter) == pytest.approx(statistics.stdev(values[: int(tile["n0"])]), rel=1e-6)


def test_events_at_the_newest_time_make_a_tile_of_their_own_until_time_moves_on() -> None:
    lane = lane_of(window(Aggregation.count, None), window(Aggregation.nunique, "shop"))
    now = 5 * HOUR_US + 7
    held = empty_header(lane) + packed(lane, [now] * 100, list(range(1, 101)))
    first = tidy.shorten(lane, held, tidy.NEVER)
    assert first is not None
    assert tiles_in(lane, first[0])[["start", "count"]].tolist() == [(now, 100)]
    held = first[0] + packed(lane, [now + 1 + i for i in range(100)], [1] * 100)
    second = tidy.shorten(lane, held, tidy.NEVER)
    assert second is not None
    assert tiles_in(lane, second[0])[["start", "count"]].tolist() == [(5 * HOUR_US, 168)]
    assert len(take_apart(lane, second[0]).pairs[0]) == 100 * 16
    assert len(second[1]) == 68 * lane.id_bytes


def test_reports_are_folded_only_when_no_read_sees_a_part_of_their_tile() -> None:
    feature = LabelWindowFeature(name="f", over="card", agg=LabelAggregation.fraud_rate, length="2d", resolution="1h")
    lane = next(lane for lane in lanes_of(feature)[0] if lane.labels)
    held = empty_header(lane) + packed(lane, [i * HOUR_US // 60 for i in range(600)], [i % 2 for i in range(600)])
    assert tidy.shorten(lane, held, tidy.NEVER) is None
    shorter = tidy.shorten(lane, held, 4 * HOUR_US + 5)
    assert shorter is not None
    tiles = tiles_in(lane, shorter[0])
    assert tiles[["start", "count", "s0_0"]].tolist() == [(i * HOUR_US, 60, 30) for i in range(4)]
    assert len(take_apart(lane, shorter[0]).raw) == 360 * lane.record.itemsize
    assert read_header(shorter[0]) == (0, 0, 4 * lane.tile.itemsize)


def test_what_no_read_can_see_goes_but_never_the_newest() -> None:
    exact = lane_of(window(Aggregation.sum, "amount", "1us"))
    held = packed(exact, [i * HOUR_US for i in range(100)], [1] * 100)
    shorter = tidy.shorten(exact, held, 90 * HOUR_US)
    assert shorter is not None
    times = np.frombuffer(shorter[0], exact.record)["time"]
    assert times.tolist() == [i * HOUR_US for i in range(42, 100)]
    gone = tidy.shorten(exact, held, 900 * HOUR_US)
    assert gone is not None
    assert np.frombuffer(gone[0], exact.record)["time"].tolist() == [99 * HOUR_US]
    assert tidy.shorten(exact, packed(exact, [0, 99 * HOUR_US], [1, 1]), 90 * HOUR_US) is None  # not worth it


def test_a_lane_for_last_features_keeps_what_the_oldest_read_needs() -> None:
    lane = lane_of(LastFeature(name="age", over="card", within="30d"))
    held = packed(lane, [i // 2 * HOUR_US for i in range(100)], [1] * 100)
    shorter = tidy.shorten(lane, held, 40 * HOUR_US)
    assert shorter is not None
    assert np.frombuffer(shorter[0], lane.record)["time"].min() == 39 * HOUR_US


def test_lanes_that_are_held_otherwise_have_other_names() -> None:
    base = lanes_of(window(Aggregation.sum, "amount"))[1]
    assert lanes_of(window(Aggregation.sum, "amount"))[1] == base
    others = [
        lanes_of(window(Aggregation.std, "amount"))[1],
        lanes_of(window(Aggregation.sum, "amount", "1d"))[1],
        lanes_of(window(Aggregation.sum, "amount", length="3d"))[1],
        lanes_of(window(Aggregation.sum, "lat"))[1],
        lanes_of(window(Aggregation.sum, "amount"), project="q")[1],
        lanes_of(window(Aggregation.sum, "amount"), project="a:{b} c")[1],
    ]
    assert len({base, *others}) == 7
    assert others[-1].startswith("a__b__c:")


def test_limbs_are_integers() -> None:
    values = np.array([0, 1, -1, 2**40, -(2**40), 2**62, -(2**62)])
    assert moments.join(moments.split(values, 2)).tolist() == values.tolist()
    squares = moments.squared(values)
    assert moments.join(moments.split(squares, 3)).tolist() == [int(value) ** 2 for value in values]


def test_deviations_of_integers_beyond_64_bits() -> None:
    values = [10**12, -(10**12), 10**12 - 1, 3]
    summed = moments.Integers(np.array(values), None)
    found = summed.read(np.array([0, 1]), np.array([4, 1]), (Aggregation.sum, Aggregation.mean, Aggregation.std))
    assert found[Aggregation.sum].tolist() == [sum(values), 0]
    assert found[Aggregation.std][0] == exact_std(4, sum(values), sum(x * x for x in values))
    assert np.isnan(found[Aggregation.mean][1])
    pair = [10**9, 10**9 + 1]
    totals = [np.array([total]) for total in (2, sum(pair), sum(x * x for x in pair))]
    assert std_of_integers(*totals, np.array([1e9]))[0] == pytest.approx(0.5**0.5)


def test_a_batch_out_of_order_is_seen_in_rises() -> None:
    times = np.array([5, 9, 7, 8, 6], np.int64)
    found = group(["a", "a", "a", "b", "a"], times, update=True)
    assert found is not None
    assert found.events.tolist() == [0, 1, 2, 4, 3]
    assert (found.view.tolist(), found.key.tolist()) == ([0, 0, 1, 2, 3], [0, 0, 0, 1])
    assert found.shown.tolist() == [2, 3, 4, 5]
    assert newest(found, np.array([0, 0, 0, 0])).tolist() == [0, 9, 9, 0]
    assert group([None], np.array([1]), update=True) is None


def test_times_far_apart_are_found_all_the_same() -> None:
    times = np.array([-(2**61), 0, 2**61, 5], np.int64)
    sight = Sight(np.array([0, 0, 0, 1]), times, 2)
    assert sight.find(np.array([0, 0, 0, 1]), np.array([-(2**62), 1, 2**62, 5])).tolist() == [0, 2, 3, 3]


def test_distinct_values_of_many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraudml.adapters.online.redis.sight.CHUNK", 5)
    lanes, values = np.array([0, 0, 0, 0, 1, 1]), np.array([7, 8, 7, 9, 7, 7])
    first, until = np.array([0, 1, 2, 4, 5, 3]), np.array([4, 4, 3, 6, 5, 4])
    assert len(parts(first, until)) > 1
    assert distinct(previous(lanes, values), first, until).tolist() == [3, 3, 1, 1, 0, 1]
    assert spread(np.array([2, 5]), np.array([4, 6]))[0].tolist() == [2, 3, 5]
