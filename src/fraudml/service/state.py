"""What the routes share, made once by ``wiring``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import HTTPConnection

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.refill import Refiller
from fraudml.decisions.scorer import Scorer
from fraudml.events.cards import CardHasher
from fraudml.events.decoder import TransactionDecoder
from fraudml.events.schema import Schema
from fraudml.events.transaction import Transaction
from fraudml.models.registry import Registry
from fraudml.monitoring.metrics import Metrics
from fraudml.service.body import BodyReader
from fraudml.service.fields import FieldReader
from fraudml.service.judge import Judge
from fraudml.service.limits import RateLimiter
from fraudml.service.pipeline import Pipeline
from fraudml.service.refresh import Refresher
from fraudml.service.shadow import Shadow
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


@dataclass
class ServiceState:
    """Everything behind the API. ``example`` is a transaction that the schema accepts, for the documentation.

    ``metrics`` should be the one whose ``stage`` the scorer was given. ``shared``: the Redis that replicas share;
    ``limit``: their rate limit, by default that of the settings for this process; ``registry``: what is asked for news.
    """

    schema: Schema
    hasher: CardHasher
    scorer: Scorer
    log: DecisionLog
    settings: Settings
    example: Mapping[str, Any]
    metrics: Metrics = field(default_factory=Metrics)
    refresher: Refresher | None = None
    judge: Judge | None = None
    shadow: Shadow | None = None
    refiller: Refiller | None = None
    shared: Shared | None = None
    registry: Registry | None = None
    limit: RateLimiter | None = None
    pipeline: Pipeline = field(init=False)
    bodies: BodyReader = field(init=False)
    fields: FieldReader = field(init=False)
    decoder: TransactionDecoder = field(init=False)

    def __post_init__(self) -> None:
        self.decoder = TransactionDecoder(self.schema, self.hasher, max_ahead_s=self.settings.max_ahead_s)
        self.fields = FieldReader(self.schema, self.hasher)
        self.bodies = BodyReader(self.settings.max_body_bytes)
        self.pipeline = Pipeline(
            self.scorer,
            most_waiting=self.settings.max_waiting,
            deadline_s=self.settings.deadline_ms / 1_000,
            on_shed=self.metrics.shed,
            on_batch=self.metrics.batch,
            overlap=self.log.waits,
        )
        recorder = self.scorer.recorder
        self.metrics.watch_model_server(lambda: self.scorer.model.server_up)
        self.metrics.watch_journal(lambda: recorder.journaled, lambda: recorder.degraded)
        if (shared := self.shared) is not None:
            self.metrics.watch_redis(lambda: shared.up)

    def start(self) -> None:
        """Start what works beside the requests."""
        for worker in self._workers:
            worker.start()

    @property
    def serving(self) -> tuple[str, str, int]:
        """The model that serves now: name, version, and how many features it reads."""
        model = self.scorer.model
        return self.settings.model_name, model.version, len(model.bundle.feature_set.inputs)

    def close(self) -> None:
        """Finish what was begun, then let go of everything."""
        for worker in self._workers:
            worker.stop()
        self.pipeline.close()
        if self.limit is not None:
            self.limit.close()
        self.scorer.recorder.close()
        self.log.close()
        for held in (self.shared, self.registry):
            if held is not None:
                held.close()

    @property
    def _workers(self) -> list[Refresher | Judge | Shadow | Refiller]:
        workers = (self.refresher, self.judge, self.shadow, self.refiller)
        return [worker for worker in workers if worker is not None]

    def transaction(self, row: Mapping[str, Any]) -> Transaction:
        """The transaction of a request's object that was decoded already; raises RowError."""
        return self.decoder.normalise(row)


def state_of(request: HTTPConnection) -> ServiceState:
    """The state of the app that serves this request."""
    state: ServiceState = request.app.state.service
    return state
