"""Port: the local journal, where decisions go while the decision log is gone. Its adapter is ``adapters/log/journal``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fraudml.decisions.record import Decision


class Journal(Protocol):
    """Decisions in order, on a disk of this machine. Not for several threads at once."""

    def append(self, decisions: Sequence[Decision]) -> None:
        """Add decisions, durable (fsync) before this returns; raises ``DecisionLogError``, and none is then added."""
        ...

    def read(self) -> Iterator[Decision]:
        """All decisions in order of append; a torn last record, of an append that never returned, is left out."""
        ...

    def clear(self) -> None:
        """Forget all decisions, durably."""
        ...

    def __len__(self) -> int:
        """The number of decisions held."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...
