"""Messages that cannot be used: kept beside their topic as they came, with the reason, so that they block nobody."""

from __future__ import annotations

import time

from fraudml.decisions.stream import Message, Outgoing

SUFFIX = ".dlq"
ERROR, SOURCE, DIED_AT, CUT = "fraudml-error", "fraudml-source", "fraudml-died-at", "fraudml-cut-from"
OWN = frozenset({ERROR, SOURCE, DIED_AT, CUT})
# What every broker takes, by Kafka's default. The whole of a larger one is still at its source.
SURE_BYTES = 900_000
LONGEST_ERROR = 2_000


def dead_letter(message: Message, error: str, *, cut: bool = False) -> Outgoing:
    """What is published of a message that cannot be used. ``cut``: no more of it than every broker takes.

    >>> dead = dead_letter(Message("transactions", 0, 7, b"c1", b"{", [("trace", b"1")]), "not JSON")
    >>> dead.topic, dead.key, dead.value
    ('transactions.dlq', b'c1', b'{')
    >>> dead.headers[:3]
    [('trace', b'1'), ('fraudml-error', b'not JSON'), ('fraudml-source', b'transactions/0/7')]
    """
    now_us = time.time_ns() // 1_000
    headers = [
        *((name, value) for name, value in message.headers if name not in OWN),
        (ERROR, error[:LONGEST_ERROR].encode()),
        (SOURCE, message.source.encode()),
        (DIED_AT, str(now_us).encode()),
    ]
    key, value = message.key, message.value
    if cut and len(value or b"") > SURE_BYTES:
        headers.append((CUT, str(len(value or b"")).encode()))
        value = (value or b"")[:SURE_BYTES]
    return Outgoing(message.topic + SUFFIX, key, value, headers)
