"""Loads what a shared online store has lost, all history or the last events, while decisions go on without it."""

from __future__ import annotations

import logging
import random
import threading
import time

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import ReadHistory, bring_back
from fraudml.errors import FraudmlError
from fraudml.features.stores import OnlineStore

LOOK_EVERY_S = 2.0
STOP_S = 1.0  # how long a stop waits; a load that was begun is left to another process

logger = logging.getLogger(__name__)


class Refiller:
    """Looks now and then whether a shared store lost events, in a thread of its own. One process at a time loads.

    While nothing is missing it says so to the store, which keeps that beside its state. ``reach_us``: see
    :func:`fraudml.decisions.rebuild.bring_up`.
    """

    def __init__(
        self,
        store: OnlineStore,
        log: DecisionLog,
        history: ReadHistory,
        reach_us: int,
        *,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._store = store
        self._log = log
        self._history = history
        self._reach_us = reach_us
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state-refill", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; may be called without :meth:`start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def check(self) -> None:
        """Look once, and load what was lost unless another process does; raises nothing."""
        try:
            looked_us = time.time_ns() // 1_000
            if not self._store.lost():
                self._store.confirm(looked_us)
            elif self._store.claim_load():
                what = "all history" if self._store.behind() is None else "the last events"
                logger.warning("the online store was emptied or restarted; %s: loaded again from now on", what)
                events = bring_back(self._store, self._log, self._history, self._reach_us)
                logger.warning("the online store is complete again: %d events were loaded", events)
        except FraudmlError as error:
            logger.warning("what the online store lost is not loaded yet: %s", error)
        except Exception:  # a thread that ends would leave decisions without history for ever
            logger.exception("loading the history of the online store failed")

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s * (0.75 + random.random() / 2)):  # noqa: S311 - not all at once
            self.check()
