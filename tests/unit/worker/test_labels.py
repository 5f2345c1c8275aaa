"""A label about a transaction that is not decided: it waits while the transaction may come, then it is dead."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from fraudml.decisions.stream import Message
from fraudml.errors import NotFoundError
from fraudml.events.label import Label
from fraudml.worker.labels import PATIENCE_US, Labels

OLD_US = 1_000_000  # when a label was published, long ago


class Unknown:
    """A scorer that has decided nothing, and a codec."""

    def add_labels(self, labels: list[Label]) -> list[NotFoundError]:
        return [NotFoundError("not decided") for _ in labels]

    def decode_label(self, value: bytes | None) -> Label:
        return Label("t1", True, 0)


@pytest.mark.parametrize(
    ("waits_since_us", "waits"),
    [
        (None, False),  # nothing waits
        (OLD_US - 1, True),  # one waits that was published before it
        (OLD_US + PATIENCE_US, True),  # or a little later
        (OLD_US + PATIENCE_US + 1, False),  # all that wait came long after it
    ],
)
def test_an_old_label_waits_while_its_transaction_may_come(waits_since_us: int | None, waits: bool) -> None:
    messages = [Message("labels", 0, offset, None, b"", (), OLD_US) for offset in range(2)]
    handled = labels(waits_since_us)(messages)
    assert handled.early == ({("labels", 0): messages[0]} if waits else {})
    assert [message for message, _ in handled.dead] == ([] if waits else messages)


def test_a_new_label_waits_whatever_is_there() -> None:
    message = Message("labels", 0, 0, None, b"", (), time.time_ns() // 1_000)
    assert labels(None)([message]).early == {("labels", 0): message}


def labels(waits_since_us: int | None) -> Labels:
    unknown = cast("Any", Unknown())
    return Labels(unknown, unknown, lambda: waits_since_us)
