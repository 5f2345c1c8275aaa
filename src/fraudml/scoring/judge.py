"""Judges challengers by what the log says of them, and ends a rollout whose guardrail is breached.

Every service does this by itself and from the same log, so all see the same evidence, and no service is needed for it.
What was counted is kept in a file, so a restart goes on from there; without the file it counts again. The first to see
a breach stops sending its own traffic to the challenger at once and writes the end into the registry, where the others
find it, if they have not come to the same verdict before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.scorer import Scorer
from fraudml.errors import ConflictError, FraudmlError
from fraudml.models.rollout import Experiment, Mode, Rollout
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.rollouts.checkpoint import Checkpoint
from fraudml.monitoring.rollouts.checks import Breach
from fraudml.monitoring.rollouts.evidence import Currency, Evidence, Span

EVERY_S = 0.5
LOOK_S = 1.0  # the longest look: then requests have the machine to themselves, until the next one
KEEP_S = 60.0  # how often what was counted is kept
FAR_S = 10.0  # a lag that is told of in the log
# Numbers are given before the commit, so those of the last moment may still be missing. What is committed later than
# this is not counted: it is the same for all arms.
SETTLED_US = 500_000
STOP_S = 5.0
logger = logging.getLogger(__name__)


class Judge:
    """Looks twice a second while a rollout with guardrails is under way, in a thread of its own.

    ``withdraw`` leaves everything to the champion here and now; ``end`` does so for everyone: it writes the reason into
    the registry unless the rollout is over already. ``checkpoint``: where what was counted outlives the process.

    A look reads what is new in batches and asks after each whether a limit is exceeded, so a bad challenger that made
    decisions hours ago is stopped as soon as these have been read, not when all that came after has been, too.
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
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._scorer = scorer
        self._log = log
        self._currency = currency
        self._metrics = metrics
        self._withdraw = withdraw
        self._end = end
        self._checkpoint = checkpoint
        self._evidence: Evidence | None = None
        self._kept: tuple[float, int] = (0.0, 0)  # when, and how far
        self._behind_us: int | None = None  # where it has got to, while there is more to read
        self._lagging = False
        self._ending: tuple[Rollout, str] | None = None  # not in the registry yet
        self._failing = self._unwritten = False
        self._stopping = threading.Event()
        metrics.watch("fraud_rollout_judge_lag_seconds", lambda: self.lag_s)
        self._thread = threading.Thread(target=self._run, name="judge", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more, and keep what was counted; may be called without :meth:`start`."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        if not self._thread.is_alive():
            try:
                self._keep()
            except Exception as error:  # of any kind: the next start counts again
                logger.warning("what was judged is not kept for the next start: %s", error, exc_info=error)

    @property
    def lag_s(self) -> float:
        """The age of what was read last while there is more to read, or the log cannot be read; else 0."""
        reached = self._behind_us
        return 0.0 if reached is None else max(0.0, time.time() - reached / 1e6)

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
            judged = experiment is not None and experiment.guardrails is not None and experiment.mode is not Mode.shadow
            if rollout is not None and experiment is not None and judged:
                self._judge(rollout, experiment)
            else:
                self._evidence = self._behind_us = None
                self._lagging = False
        except Exception as error:  # of any kind: a thread that ends would judge no more
            if not self._failing:
                unforeseen = None if isinstance(error, FraudmlError) else error
                logger.warning("challengers are not judged now: %s", error, exc_info=unforeseen)
            self._failing = True
            if self._evidence is not None:
                self._behind_us = self._evidence.reached
        else:
            self._failing = False

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            self.look()

    def _judge(self, rollout: Rollout, experiment: Experiment) -> None:
        if self._evidence is None or self._evidence.salt != experiment.salt:
            self._evidence, self._behind_us = None, experiment.since_us  # nothing is read yet, and the log may be gone
            self._evidence = self._begin(Span(experiment))
            self._kept = (time.monotonic(), self._evidence.reached)
            self._metrics.judging()
        breach = self._read(self._evidence)
        if breach is not None:
            self._withdraw(rollout)
            reason = f"guardrail {breach.check}: {breach.reason}"
            logger.error("the rollout of revision %s ends, the champion decides: %s", rollout.revision, reason)
            self._metrics.breached(breach.check)
            self._ending = (rollout, reason)
            self._write_end()

    def _begin(self, span: Span) -> Evidence:
        if self._checkpoint is None:
            return Evidence(span, self._currency)
        return self._checkpoint.resume(span, self._currency, self._log)

    def _read(self, evidence: Evidence) -> Breach | None:
        """Take in what is new, for a while; the breach that this has shown, or was known before."""
        end = time.monotonic() + LOOK_S
        until = time.time_ns() // 1_000 - SETTLED_US
        breach, more = evidence.breach(), True
        with closing(evidence.advance(self._log, until)) as batches:
            while breach is None and more and not self._stopping.is_set():
                more = next(batches, None) is not None
                breach = evidence.breach()
                if time.monotonic() >= self._kept[0] + KEEP_S:
                    self._keep()
                if time.monotonic() >= end:
                    break
        self._tell(evidence.reached if more and breach is None else None)
        return breach

    def _keep(self) -> None:
        evidence = self._evidence
        if self._checkpoint is None or evidence is None:
            return
        if evidence.reached != self._kept[1]:
            self._checkpoint.save(evidence)
        self._kept = (time.monotonic(), evidence.reached)

    def _tell(self, behind_us: int | None) -> None:
        """Note how far it has got; ``None``: to the end. The log is told when it begins to lag, and when it ends."""
        self._behind_us = behind_us
        if self.lag_s >= FAR_S and not self._lagging:
            logger.warning("challengers are judged by what was logged %.0f s ago, until that is read", self.lag_s)
            self._lagging = True
        elif behind_us is None and self._lagging:
            logger.info("challengers are judged by all that is logged again")
            self._lagging = False

    def _write_end(self) -> None:
        """Tell the registry of an end; while that fails, for whatever reason, again at the next look."""
        ending = self._ending
        if ending is None:
            return
        try:
            self._end(*ending)
        except ConflictError:  # another service, or a person, was faster: the next look sees what is there now
            return
        except Exception as error:  # of any kind: what is under way has to be judged meanwhile
            if not self._unwritten:
                unforeseen = None if isinstance(error, FraudmlError) else error
                said = "the end of a rollout is not in the registry yet, and will be tried again: %s"
                logger.warning(said, error, exc_info=unforeseen)
            self._unwritten = True
            return
        self._unwritten = False
        if self._ending is ending:  # another thread may have refused another one
            self._ending = None
