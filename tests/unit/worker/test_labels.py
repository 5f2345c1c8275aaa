"""A label about a transaction that is not decided: it waits while the transaction may come, then it is dead."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from fraudml.decisions.stream import Message
from fraudml.errors import NotFoundError
from fraudml.events.label import Label
from fraudml.worker.labels import PATIENCE_US, Labels

NOW_US = time.time_ns() // 1_000
OLD_US = NOW_US - 10 * PATIENCE_US


class Unknown:
    """A scorer that has decided nothing, and a codec."""

    def add_labels(self, labels: list[Label]) -> list[NotFoundError]:
        return [NotFoundError("not decided") for _ in labels]

    def decode_label(self, value: bytes | None) -> Label:
        return Label("t1", True, 0)


@pytest.mark.parametrize(
    ("published_us", "waits_since_us", "waits"),
    [
        (NOW_US, None, True),  # it is new
        (OLD_US, None, False),  # nothing waits
        (OLD_US, OLD_US - 1, True),  # one waits that was published before it
        (OLD_US, OLD_US + PATIENCE_US, True),  # or a little later
        (OLD_US, OLD_US + PATIENCE_US + 1, False),  # all that wait came long after it
    ],
)
def test_a_label_waits_while_its_transaction_may_come(
    published_us: int, waits_since_us: int | None, waits: bool
) -> None:
    unknown = cast("Any", Unknown())
    messages = [Message("labels", 0, offset, None, b"", (), published_us) for offset in range(2)]
    handled = Labels(unknown, unknown, lambda: waits_since_us)(messages)
    assert handled.early == ({("labels", 0): messages[0]} if waits else {})
    assert [message for message, _ in handled.dead] == ([] if waits else messages)
