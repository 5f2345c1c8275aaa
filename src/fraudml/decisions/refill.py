"""Loads the history of a shared online store again after it was emptied, while decisions go on without it."""

from __future__ import annotations

import logging
import threading

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import ReadHistory, rebuild
from fraudml.errors import FraudmlError
from fraudml.features.stores import OnlineStore

LOOK_EVERY_S = 2.0
STOP_S = 1.0  # how long a stop waits; a load that was begun is left to another process

logger = logging.getLogger(__name__)


class Refiller:
    """Looks now and then whether a shared store lost its state, in a thread of its own. One process at a time loads."""

    def __init__(
        self, store: OnlineStore, log: DecisionLog, history: ReadHistory, *, every_s: float = LOOK_EVERY_S
    ) -> None:
        self._store = store
        self._log = log
        self._history = history
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
            if self._store.lost() and self._store.claim_load():
                logger.warning("the online store was emptied; its history is loaded again")
                events = rebuild(self._store, self._log, self._history())
                logger.warning("the online store has its history again: %d events", events)
        except FraudmlError as error:
            logger.warning("the history of the online store is not loaded yet: %s", error)
        except Exception:  # a thread that ends would leave decisions without history for ever
            logger.exception("loading the history of the online store failed")

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self.check()
