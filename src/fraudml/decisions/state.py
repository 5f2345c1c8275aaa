"""The online store as the scorer uses it: its failure is a degradation, and what it misses is made up for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from fraudml.errors import OnlineStoreError, StateLost
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.features.stores import OnlineStore, StateRead

MISSED_LIMIT = 1_000_000  # events remembered for a store that is gone, about 1 KB each
GIVEN_AT_ONCE = 2_000
GIVING_S = 0.25  # what a batch spends on giving, once that has taken as long: later ones give the rest

_Event = TypeVar("_Event", Transaction, Label)

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """``began_us``: when a store failed first (a time); ``last_s``: when it did last (``time.monotonic``)."""

    began_us: int
    last_s: float


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
        self._failure: Failure | None = None
        self._watched = False
        self.lost = 0

    @property
    def gone(self) -> bool:
        """Whether events wait for a store that failed, or its history is missing."""
        return bool(self._missed or self._missed_labels or self._emptied or self._failure)

    @property
    def failure(self) -> Failure | None:
        """Since when events may be missing in the store; ``None`` while none are."""
        return self._failure

    def watch(self) -> None:
        """From now on somebody calls :meth:`caught_up`: after a failure of a shared store nothing is read before that.

        What failed for this process most likely failed for others, and each gives it only its own events.
        """
        self._watched = self._store.shared

    def caught_up(self, failure: Failure) -> None:
        """The store got from the log what was decided without it. May be called by another thread."""
        if self._failure is failure:  # it did not fail again
            self._works()

    def read_then_update(self, batch: Sequence[Transaction], *, trace: bool = False) -> StateRead | None:
        """What the store reads for each transaction before adding it; ``None`` when that cannot be told."""
        try:
            if not self._catch_up():
                self._keep(self._missed, batch)  # behind those that came before
                return None
            read = self._store.read_then_update(batch, trace=trace)
        except StateLost as error:
            self._note_loss(error)
            return None
        except OnlineStoreError as error:
            self._note_failure(error)
            self._keep(self._missed, batch)
            return None
        return self._trusted(read)

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        """Add label reports, now or as soon as the store works again. ``again``: it may have them."""
        try:
            if self._catch_up():
                self._store.add_labels(labels, again=again)
            else:
                self._keep(self._missed_labels, labels)
        except StateLost as error:
            self._note_loss(error)
        except OnlineStoreError as error:
            self._note_failure(error)
            self._keep(self._missed_labels, labels)

    def _trusted(self, read: StateRead) -> StateRead | None:
        """What was read, unless others may still keep events for the store."""
        self._emptied = False
        if self._failure and not self._watched:
            self._works()
        return None if self._failure else read

    def _works(self) -> None:
        self._failure = None
        logger.warning("the online store works again, and has what was decided without it")

    def _catch_up(self) -> bool:
        """Give what the store has missed, or some of it; returns whether it has all of it now."""
        until = time.monotonic() + GIVING_S
        return self._give(self._missed, self._store.read_then_update, until) and self._give(
            self._missed_labels, self._store.add_labels, until
        )

    def _give(self, missed: list[_Event], add: Callable[[list[_Event]], object], until: float) -> bool:
        """Piece by piece: a store has a deadline for each call."""
        given = 0
        while given < len(missed) and (not given or time.monotonic() < until):
            try:
                with suppress(StateLost):  # they are added all the same
                    add(missed[given : given + GIVEN_AT_ONCE])
            except OnlineStoreError:
                del missed[:given]
                raise
            given += GIVEN_AT_ONCE
        del missed[:given]
        return not missed

    def _note_loss(self, error: StateLost) -> None:
        if not self._emptied:
            logger.error("decisions are made without history until it is loaded again: %s", error)
        self._emptied = True

    def _note_failure(self, error: OnlineStoreError) -> None:
        if self._failure is None:
            logger.warning("the online store failed, events are kept for it until it works again: %s", error)
        began_us = self._failure.began_us if self._failure else time.time_ns() // 1_000
        self._failure = Failure(began_us, time.monotonic())

    def _keep(self, missed: list[_Event], events: Sequence[_Event]) -> None:
        kept = events[: MISSED_LIMIT - len(missed)]
        missed.extend(kept)
        if len(kept) < len(events):
            if not self.lost:
                logger.error("the online store missed too many events; restart to bring them back from the log")
            self.lost += len(events) - len(kept)
