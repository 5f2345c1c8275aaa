"""Loads what a shared online store has lost, all history or the last events, while decisions go on without it."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.rebuild import ReadHistory, bring_back, catch_up_since
from fraudml.decisions.state import OnlineState
from fraudml.errors import FraudmlError
from fraudml.features.stores import OnlineStore

LOOK_EVERY_S = 2.0
LOOK_AGAIN_S = 0.25  # after a failure
GRACE_S = 1.0  # in which all processes notice that a store works again: a look, a timeout and some more
STOP_S = 1.0  # how long a stop waits; a load that was begun is left to another process

logger = logging.getLogger(__name__)


class Refiller:
    """Looks now and then whether a shared store lost events, in a thread of its own. One process at a time loads.

    While nothing is missing it says so to the store, which keeps that beside its state. ``reach_us``: see
    :func:`fraudml.decisions.rebuild.bring_up`. ``state``: the store as this process uses it; when that works again
    after a failure, it waits for this thread. ``give``: gives a complete store what only this process can, see
    :func:`fraudml.decisions.replayed.give_replayed`.
    """

    def __init__(
        self,
        store: OnlineStore,
        log: DecisionLog,
        history: ReadHistory,
        reach_us: int,
        state: OnlineState | None = None,
        *,
        give: Callable[[], object] = lambda: None,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._store = store
        self._log = log
        self._history = history
        self._reach_us = reach_us
        self._state = state
        self._give = give
        self._every_s = every_s
        self._works = True
        self._failed_s = -math.inf  # when this thread could not ask the store last
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="state-refill", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        if self._state is not None:
            self._state.watch()
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
                self._settle()
                self._give()
                self._works = True
            elif self._store.claim_load():
                what = "all history" if self._store.behind() is None else "the last events"
                logger.warning("the online store was emptied or restarted; %s: loaded again from now on", what)
                events = bring_back(self._store, self._log, self._history, self._reach_us)
                logger.warning("the online store is complete again: %d events were loaded", events)
        except FraudmlError as error:
            if self._works:
                logger.warning("whether the online store lost something is not known, or not loaded yet: %s", error)
            self._works, self._failed_s = False, time.monotonic()
        except Exception:  # a thread that ends would leave decisions without history for ever
            logger.exception("loading the history of the online store failed")

    def _settle(self) -> None:
        """After a failure, give the store from the log what other processes keep for it, once they had time to notice
        that it works again."""
        state = self._state
        if state is None or (failure := state.failure) is None:
            return
        if time.monotonic() - max(failure.last_s, self._failed_s) >= GRACE_S:
            catch_up_since(self._store, self._log, failure.began_us)
            state.caught_up(failure)

    def _pause_s(self) -> float:
        """Until the next look, with jitter: many processes do not look at the same moment."""
        failed = self._state is not None and self._state.failure is not None
        return (LOOK_AGAIN_S if failed else self._every_s) * (0.75 + random.random() / 2)  # noqa: S311

    def _run(self) -> None:
        while not self._stopping.wait(self._pause_s()):
            self.check()
