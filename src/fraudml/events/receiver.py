"""Port: where history is replayed to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Item(NamedTuple):
    """A transaction, or a label of one. ``time_us``: its event time, or when it was known; ``key``: of its main entity,
    what is about one of these stays in order; ``body``: the JSON."""

    is_label: bool
    time_us: int
    transaction_id: str
    key: str | None
    body: bytes


# Told once what became of an item: nothing when it was taken, else why it was refused for good.
Told = Callable[[str | None], None]


class Receiver(Protocol):
    """Takes items in order. ``Told`` may be called from another thread. What is refused is told; a receiver that cannot
    be reached, or lets nobody in, raises the error from each method from then on."""

    def send(self, item: Item, told: Told) -> bool:
        """Take an item; waits while too many are under way. False: the replay ends, and it was not taken."""
        ...

    def poll(self) -> None:
        """While nothing is sent: get on with what is under way."""
        ...

    def flush(self, within_s: float | None = None) -> None:
        """Return when all was told, or after so long."""
        ...

    def close(self) -> None:
        """Let go of connections; what is still under way is given up."""
        ...
