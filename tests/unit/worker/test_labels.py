"""A label about a transaction that is not decided: it waits while the transaction may come, then it is dead."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from fraudml.decisions.stream import Message
from fraudml.errors import NotFoundError
from fraudml.events.label import Label
from fraudml.worker.labels import MOST_PATIENCE_US, PATIENCE_US, Labels

OLD_US = 1_000_000  # when a label was published, long ago


class Unknown:
    """A scorer that has decided nothing, and a codec."""

    def add_labels(self, labels: list[Label], *, again: bool) -> list[NotFoundError]:
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


def test_a_label_of_tomorrow_waits_no_longer_than_one_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = time.time_ns() // 1_000
    message = Message("labels", 0, 0, None, b"", (), now_us + 86_400_000_000)
    handle = labels(None)
    assert handle([message]).early == {("labels", 0): message}
    monkeypatch.setattr(time, "time_ns", lambda: (now_us + 2 * PATIENCE_US) * 1_000)
    assert handle([message]).dead[0][0] is message


def test_where_transactions_have_old_times_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now_us = time.time_ns() // 1_000
    message = Message("labels", 0, 0, None, b"", (), now_us)
    handle = labels(0)
    monkeypatch.setattr(time, "time_ns", lambda: (now_us + MOST_PATIENCE_US) * 1_000)
    assert handle([message]).early == {("labels", 0): message}
    monkeypatch.setattr(time, "time_ns", lambda: (now_us + 3 * MOST_PATIENCE_US) * 1_000)
    assert handle([message]).dead[0][0] is message


def labels(waits_since_us: int | None) -> Labels:
    unknown = cast("Any", Unknown())
    return Labels(unknown, unknown, unknown, lambda: waits_since_us)
