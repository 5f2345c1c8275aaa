"""What a mark in Redis says: ``ready:LIFE:ARRIVAL`` or ``loading:LIFE:TOKEN``.

A server that comes back with older data, from a snapshot or as a replica that was not in step, has a mark of another
life. Its arrival number says up to where the data is complete all the same, for it is as old as the data.
"""

from __future__ import annotations

from enum import Enum

from fraudml.adapters.online.redis.lives import Told

READY = b"ready"
LOADING = b"loading"


class State(Enum):
    """What is on a node: everything, everything but the last of it, or not all history."""

    complete = "complete"
    behind = "behind"
    lost = "lost"


def ready(life: bytes, arrival: int) -> bytes:
    """Complete up to this arrival number; 0: nobody has said yet."""
    return b"%b:%b:%d" % (READY, life, arrival)


def loading(life: bytes, token: bytes) -> bytes:
    """History is loaded, by the process with this token."""
    return b"%b:%b:%b" % (LOADING, life, token)


def is_ready(told: Told) -> bool:
    """Whether everything is there: on the hot path."""
    mark: bytes | None = told.answer
    return mark is not None and mark.startswith(b"%b:%b:" % (READY, told.life))


def was_ready(told: Told) -> bool:
    """Whether everything is there, or was in another life."""
    mark: bytes | None = told.answer
    return mark is not None and mark.startswith(READY + b":")


def state(told: Told) -> State:
    """What is on the node that told its mark."""
    if is_ready(told):
        return State.complete
    return State.behind if arrival(told) else State.lost


def arrival(told: Told) -> int:
    """Up to where it is complete; 0 where that is not known.

    >>> arrival(Told(b"ready:1f:17", b"2e")), arrival(Told(b"loading:1f:99", b"1f")), arrival(Told(None, b"1f"))
    (17, 0, 0)
    """
    kind, _, rest = (told.answer or b"").partition(b":")
    number = rest.rpartition(b":")[2]
    return int(number) if kind == READY and number.isdigit() else 0
