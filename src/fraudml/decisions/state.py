"""The online store as the scorer uses it: its failure is a degradation, and what it misses is made up for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore, StateRead

MISSED_LIMIT = 1_000_000  # events remembered for a store that is gone, about 1 KB each
GIVEN_AT_ONCE = 2_000

_Event = TypeVar("_Event", Transaction, Label)

logger = logging.getLogger(__name__)


class OnlineState:
    """An online store whose failures never reach the caller. Not for several threads at once.

    State has to stay a fold of the decision log, so events that a failing store did not take are kept and given
    to it before the next ones. What exceeds :data:`MISSED_LIMIT`, or is kept when the process ends, only the log brings
    back: by a rebuild, or into a shared store by :func:`fraudml.decisions.rebuild.catch_up`.
    """

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._missed: list[Transaction] = []
        self._missed_labels: list[Label] = []
        self._emptied = False
        self.lost = 0

    @property
    def gone(self) -> bool:
        """Whether events wait for a store that failed, or its history is missing."""
        return bool(self._missed or self._missed_labels or self._emptied)

    def read_then_update(self, batch: Sequence[Transaction]) -> StateRead | None:
        """What the store reads for each transaction before adding it; ``None`` when that cannot be told."""
        try:
            self._catch_up()
            read = self._store.read_then_update(batch)
        except StateLost as error:
            self._note_loss(error)
            return None
        except OnlineStoreError as error:
            self._keep(self._missed, batch, error)
            return None
        self._emptied = False
        return read

    def add_labels(self, labels: Sequence[Label]) -> None:
        """Add label reports, now or as soon as the store works again."""
        try:
            self._catch_up()
            self._store.add_labels(labels)
        except StateLost as error:
            self._note_loss(error)
        except OnlineStoreError as error:
            self._keep(self._missed_labels, labels, error)

    def _catch_up(self) -> None:
        self._give(self._missed, self._store.read_then_update)
        self._give(self._missed_labels, self._store.add_labels)

    def _give(self, missed: list[_Event], add: Callable[[list[_Event]], object]) -> None:
        """Piece by piece: a store has a deadline for each call."""
        while missed:
            with suppress(StateLost):  # they are added all the same
                add(missed[:GIVEN_AT_ONCE])
            del missed[:GIVEN_AT_ONCE]

    def _note_loss(self, error: StateLost) -> None:
        if not self._emptied:
            logger.error("decisions are made without history until it is loaded again: %s", error)
        self._emptied = True

    def _keep(self, missed: list[_Event], events: Sequence[_Event], error: OnlineStoreError) -> None:
        kept = events[: MISSED_LIMIT - len(missed)]
        missed.extend(kept)
        logger.warning("the online store failed, %d events are kept for it: %s", len(missed), error)
        if len(kept) < len(events):
            self.lost += len(events) - len(kept)
            logger.error("the online store missed too many events: %s", "restart to bring them back from the log")
