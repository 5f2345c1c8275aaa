"""Scores in the shadow: what challengers would have said, off the path of answers.

A batch is handed over and forgotten: a thread of the lowest priority scores it, compares and logs. What it has no time
for is dropped and counted; what fails is counted. Nothing here can slow an answer by more than the hand-over, nor fail
one. It runs in this process, so a model that takes all memory takes it from everyone: that is what the self-test and a
canary on another machine are for.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from fraudml.decisions.deciding import Read
from fraudml.decisions.lineup import Lineup
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.model import Model, degradations
from fraudml.decisions.record import Decision, ShadowScore
from fraudml.errors import DecisionLogError
from fraudml.monitoring.metrics import Metrics

MOST_WAITING = 2_000  # decisions; about 10 MB
WRITE_S = 1.0  # decisions are committed by then, and scores are written together
LOWEST = 19
STOP_S = 5.0

logger = logging.getLogger(__name__)


class Shadow:
    """Takes batches from the thread that decides (:meth:`offer`) and scores them in a thread of its own."""

    def __init__(self, log: DecisionLog, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._waiting: deque[tuple[Lineup, Read, Sequence[Decision]]] = deque()
        self._held = 0
        self._counting = threading.Lock()
        self._scores: list[ShadowScore] = []
        self._arrived = threading.Event()
        self._stopping = False
        self._until = math.inf
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Score from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Score what waits while there is time, and write it; may be called without :meth:`start`."""
        self._until = time.monotonic() + STOP_S / 2
        self._stopping = True
        self._arrived.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def offer(self, lineup: Lineup, facts: Read, decisions: Sequence[Decision]) -> None:
        """Score these, too, or drop them when too many wait. Returns at once."""
        with self._counting:
            fits = self._held + len(decisions) <= MOST_WAITING
            self._held += len(decisions) if fits else 0
        if not fits:
            self._metrics.shadow("dropped", len(decisions))
            return
        self._waiting.append((lineup, facts, decisions))
        self._arrived.set()

    def _run(self) -> None:
        with suppress(OSError, AttributeError):  # on Linux priorities are those of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        written = time.monotonic()
        stopping = False
        while not stopping:
            self._arrived.wait(WRITE_S)
            self._arrived.clear()
            stopping = self._stopping  # read before what waits: all of that was there when it was told to stop
            while self._waiting and time.monotonic() < self._until:
                self._next()
                if time.monotonic() - written >= WRITE_S:
                    written = self._write()
            if time.monotonic() - written >= WRITE_S:
                written = self._write()
        self._write()

    def _next(self) -> None:
        lineup, facts, decisions = self._waiting.popleft()
        with self._counting:
            self._held -= len(decisions)
        for shadow in lineup.shadows:
            rows = [row for row, event in enumerate(facts.batch) if shadow.sees(lineup.key(event))]
            if rows:
                self._score(shadow.model, facts, decisions, rows)

    def _score(self, model: Model, facts: Read, decisions: Sequence[Decision], rows: list[int]) -> None:
        started = time.perf_counter()
        try:
            state = facts.state
            own = None if state is None else state._replace(values=state.values[rows], late=state.late[rows])
            scores = model.scores(model.vectors([facts.batch[row] for row in rows], own))
        except Exception:  # a defect of the challenger; nobody waits for it
            logger.exception("model %s failed in the shadow", model.version)
            scores = [None] * len(rows)
            own = facts.state
        model_us = int((time.perf_counter() - started) * 1e6)
        flips = 0
        for row, score in zip(rows, scores, strict=True):
            decision = decisions[row]
            action = model.policy.action(score, degradations(own, score))
            flips += action is not decision.action
            self._scores.append(ShadowScore(decision.arrival, model.version, score, action, model_us))
        self._metrics.shadow("scored", len(rows))
        self._metrics.shadow("flipped", flips)
        self._metrics.shadow("failed", scores.count(None))

    def _write(self) -> float:
        """Into the log; what it does not take (a decision that is in the journal, say) is dropped. The time now."""
        scores, self._scores = self._scores, []
        if scores:
            try:
                self._log.append_shadow(scores)
            except DecisionLogError as error:
                logger.warning("%d scores of the shadow are not logged: %s", len(scores), error)
                self._metrics.shadow("unlogged", len(scores))
        return time.monotonic()
