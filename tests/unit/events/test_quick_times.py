"""Times read by the minute: around the changes of clocks, in every order, as the slow reader has them."""

from __future__ import annotations

import random

import pytest

from fraudml.events.normalise import time_reader
from fraudml.events.quick_times import quick_time_reader
from fraudml.events.schema import Attribute, AttributeType, TimeColumn

MINUTES = {
    "Europe/Berlin": [
        "2024-03-31T01:59",
        "2024-03-31T02:00",
        "2024-03-31T02:30",
        "2024-03-31T03:00",
        "2024-10-27T02:59",
    ],
    "Africa/Monrovia": ["1972-01-06T23:59", "1972-01-07T00:00", "1972-01-07T00:44", "1972-01-07T00:45"],
    "Asia/Kolkata": ["1970-01-01T05:30", "2024-02-29T00:00"],
}


@pytest.mark.parametrize("zone", MINUTES)
@pytest.mark.parametrize("kind", ["event", "attribute"])
def test_a_minute_seen_before_tells_its_other_seconds(zone: str, kind: str) -> None:
    column: TimeColumn | Attribute = TimeColumn("t", timezone=zone)
    if kind == "attribute":
        column = Attribute(AttributeType.time, timezone=zone)
    quick, slow = quick_time_reader(column), time_reader(column)
    texts = [
        f"{minute.replace('T', separator)}:{second:02}{end}"
        for minute in MINUTES[zone]
        for second in (0, 1, 29, 30, 31, 59)
        for separator in "T "
        for end in ("", "Z", "+00:00", ".5", ".25Z")
    ]
    random.Random(7).shuffle(texts)
    for text in texts * 2:
        assert quick(text) == slow(text), text


def test_an_offset_is_not_mistaken_for_seconds() -> None:
    column = TimeColumn("t", timezone="Europe/Berlin")
    quick, slow = quick_time_reader(column), time_reader(column)
    for text in ("2024-05-01T12:30+02", "2024-05-01T12:30+03", "2024-05-01T12:30-02", "2024-05-01T12:30:02"):
        assert quick(text) == slow(text)
