"""Port: the journal, where decisions are kept while the decision log cannot take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from fraudml.decisions.record import Decision


class Journal(Protocol):
    """Decisions on the local disk, in the order they were made, until the log has them.

    Safe for use by several threads; only the process that claimed the log may append or clear. Every failure, and an
    existing journal that is damaged, is a ``DecisionLogError``.
    """

    def append(self, decisions: Sequence[Decision]) -> None:
        """Keep decisions; when this returns they survive ``kill -9`` and a power cut.

        All or none: after a failure, also of the process in the middle of it, nothing of the call is held. Only when
        the disk fails in undoing it as well may its decisions be there after a restart.
        """
        ...

    def read(self) -> Iterator[Decision]:
        """What is held when this is called, in order of :meth:`append`. A decision may be in it twice.

        Damage raises ``DecisionLogError``, says where and what to do, and nothing is removed.
        """
        ...

    def clear(self) -> None:
        """Forget all decisions, durably. The caller has made sure that the log has them."""
        ...

    def __len__(self) -> int:
        """The decisions held."""
        ...

    def close(self) -> None:
        """Release the file; what is held stays."""
        ...
