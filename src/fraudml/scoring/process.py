"""A process that scores, whatever brings its transactions: HTTP requests or a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.recorder import MOST_JOURNALED
from fraudml.decisions.refill import Refiller
from fraudml.decisions.scorer import Scorer
from fraudml.events.cards import CardHasher
from fraudml.events.schema import Schema
from fraudml.models.registry import Registry
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.judge import Judge
from fraudml.scoring.refresh import Refresher
from fraudml.scoring.shadow import Shadow
from fraudml.settings import Settings


class Shared(Protocol):
    """A server that decisions can do without; it holds connections."""

    @property
    def up(self) -> bool:
        """Whether it worked when it was last asked."""
        ...

    def close(self) -> None:
        """Let go of its connections."""
        ...


@dataclass(kw_only=True)
class ScoringProcess:
    """The scorer, what it is made of, and what works beside it, made once by :mod:`fraudml.scoring.start`.

    ``metrics`` should be the one whose ``stage`` the scorer was given. ``shared``: the Redis that processes share;
    ``registry``: what is asked for news.
    """

    schema: Schema
    hasher: CardHasher
    scorer: Scorer
    log: DecisionLog
    settings: Settings
    metrics: Metrics = field(default_factory=Metrics)
    refresher: Refresher | None = None
    judge: Judge | None = None
    shadow: Shadow | None = None
    refiller: Refiller | None = None
    shared: Shared | None = None
    registry: Registry | None = None

    def __post_init__(self) -> None:
        scorer, recorder, shared, metrics = self.scorer, self.scorer.recorder, self.shared, self.metrics
        metrics.watch_dependency("online_store", lambda: not scorer.state.gone)
        metrics.watch_dependency("decision_log", lambda: not recorder.degraded)
        metrics.watch_dependency("registry", lambda: not scorer.registry_gone)
        metrics.watch_dependency("model_server", lambda: scorer.model.server_up)
        metrics.watch_dependency("redis", lambda: shared is None or shared.up)
        metrics.watch("fraud_journal_decisions", lambda: recorder.journaled)
        metrics.watch("fraud_journal_limit", lambda: MOST_JOURNALED)
        if self.log.connections is not None:
            limit = self.settings.db_pool_size + self.settings.db_pool_overflow
            metrics.watch("fraud_log_connections", lambda: self.log.connections or 0, state="used")
            metrics.watch("fraud_log_connections", lambda: limit, state="limit")
        metrics.serve(scorer.lineup)

    def start(self) -> None:
        """Start what works beside the scorer."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Finish what was begun, then let go of everything."""
        for worker in self._workers:
            worker.stop()
        self.finish()
        self.scorer.recorder.close()
        self.log.close()
        for held in (self.shared, self.registry):
            if held is not None:
                held.close()

    def finish(self) -> None:
        """What has to end before the log is closed; nothing here."""

    @property
    def _workers(self) -> list[Refresher | Judge | Shadow | Refiller]:
        workers = (self.refresher, self.judge, self.shadow, self.refiller)
        return [worker for worker in workers if worker is not None]
