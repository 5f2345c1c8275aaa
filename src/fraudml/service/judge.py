"""Judges challengers by what the log says of them, and ends a rollout whose guardrail is breached.

Every service does this by itself and from the same log, so all see the same evidence, a restart loses none, and no
service is needed for it. The first to see a breach stops sending its own traffic to the challenger at once and writes
the end into the registry, where the others find it, if they have not come to the same verdict before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ConflictError, FraudmlError
from fraudml.models.rollout import Experiment, Mode, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.rollouts.evidence import Currency, Evidence, Span

EVERY_S = 0.5
# Numbers are given before the commit, so those of the last moment may still be missing. What is committed later than
# this is not counted: it is the same for all arms.
SETTLED_US = 500_000
STOP_S = 5.0
logger = logging.getLogger(__name__)


class Judge:
    """Looks twice a second while a rollout with guardrails is under way, in a thread of its own.

    ``withdraw`` leaves everything to the champion here and now; ``end`` does so for everyone: it writes the reason into
    the registry unless the rollout is over already.
    """

    def __init__(
        self,
        scorer: Scorer,
        log: DecisionLog,
        currency: Currency,
        metrics: Metrics,
        *,
        withdraw: Callable[[Rollout], None],
        end: Callable[[Rollout, str], None],
    ) -> None:
        self._scorer = scorer
        self._log = log
        self._currency = currency
        self._metrics = metrics
        self._withdraw = withdraw
        self._end = end
        self._evidence: Evidence | None = None
        self._ending: tuple[Rollout, str] | None = None  # not in the registry yet
        self._failing = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; may be called without :meth:`start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def refuse(self, rollout: Rollout, reason: str) -> None:
        """End a rollout that cannot be served; may be called by another thread."""
        self._metrics.breached("unservable")
        self._ending = (rollout, reason)

    def look(self) -> None:
        """Look once; raises nothing."""
        try:
            self._write_end()
            rollout = self._scorer.lineup.rollout
            experiment = rollout.experiment if rollout is not None else None
            if rollout is None or experiment is None or experiment.guardrails is None:
                self._evidence = None
            elif experiment.mode is not Mode.shadow:
                self._judge(rollout, experiment)
        except Exception as error:  # of any kind: a thread that ends would judge no more
            if not self._failing:
                unforeseen = None if isinstance(error, FraudmlError) else error
                logger.warning("challengers are not judged now: %s", error, exc_info=unforeseen)
            self._failing = True
        else:
            self._failing = False

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self.look()

    def _judge(self, rollout: Rollout, experiment: Experiment) -> None:
        if self._evidence is None or self._evidence.salt != experiment.salt:
            self._evidence = Evidence(Span(experiment), self._currency)
            self._metrics.judging()
        breach = self._evidence.look(self._log, time.time_ns() // 1_000 - SETTLED_US)
        if breach is not None:
            self._withdraw(rollout)
            reason = f"guardrail {breach.check}: {breach.reason}"
            logger.error("the rollout of revision %s ends, the champion decides: %s", rollout.revision, reason)
            self._metrics.breached(breach.check)
            self._ending = (rollout, reason)
            self._write_end()

    def _write_end(self) -> None:
        """Tell the registry of an end; while it is gone, again at the next look."""
        if self._ending is None:
            return
        try:
            self._end(*self._ending)
        except ConflictError:  # another service, or a person, was faster: the next look sees what is there now
            return
        self._ending = None
