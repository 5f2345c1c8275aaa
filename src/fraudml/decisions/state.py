"""The online store as the scorer uses it: its failure is a degradation, and what it misses is made up for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TypeVar

from fraudml.errors import OnlineStoreError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore, StateRead

MISSED_LIMIT = 1_000_000  # events remembered for a store that is gone, about 1 KB each

_Event = TypeVar("_Event", Transaction, Label)

logger = logging.getLogger(__name__)


class OnlineState:
    """An online store whose failures never reach the caller. Not for several threads at once.

    State has to stay a fold of the decision log, so events that a failing store did not take are kept and given
    to it before the next ones. What exceeds :data:`MISSED_LIMIT` is ``lost``: only a rebuild from the log brings
    it back.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._missed: list[Transaction] = []
        self._missed_labels: list[Label] = []
        self.lost = 0

    @property
    def gone(self) -> bool:
        """Whether events wait for a store that failed."""
        return bool(self._missed or self._missed_labels)

    def read_then_update(self, batch: Sequence[Transaction]) -> StateRead | None:
        """What the store reads for each transaction before adding it; ``None`` when the store failed."""
        try:
            self._catch_up()
            return self._store.read_then_update(batch)
        except OnlineStoreError as error:
            self._keep(self._missed, batch, error)
            return None

    def add_labels(self, labels: Sequence[Label]) -> None:
        """Add label reports, now or as soon as the store works again."""
        try:
            self._catch_up()
            self._store.add_labels(labels)
        except OnlineStoreError as error:
            self._keep(self._missed_labels, labels, error)

    def _catch_up(self) -> None:
        if self._missed:
            self._store.read_then_update(self._missed)
            self._missed = []
        if self._missed_labels:
            self._store.add_labels(self._missed_labels)
            self._missed_labels = []

    def _keep(self, missed: list[_Event], events: Sequence[_Event], error: OnlineStoreError) -> None:
        kept = events[: MISSED_LIMIT - len(missed)]
        missed.extend(kept)
        logger.warning("the online store failed, %d events are kept for it: %s", len(missed), error)
        if len(kept) < len(events):
            self.lost += len(events) - len(kept)
            logger.error("the online store missed too many events: restart to rebuild it from the log")
