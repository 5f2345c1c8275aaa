"""What the routes share: a scoring process, and what brings requests to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from fraudml import wiring
from fraudml.decisions.rebuild import ReadHistory
from fraudml.events.decoder import TransactionDecoder
from fraudml.events.example import example
from fraudml.events.fields import FieldReader
from fraudml.events.source import Progress
from fraudml.events.transaction import Transaction
from fraudml.models.registry import Registry
from fraudml.project import Project
from fraudml.scoring import start
from fraudml.scoring.process import ScoringProcess
from fraudml.service.body import BodyReader
from fraudml.service.limits import RateLimiter
from fraudml.service.pipeline import Pipeline
from fraudml.service.requests import Requests
from fraudml.service.shared_limit import SharedRateLimit
from fraudml.settings import Settings


@dataclass(kw_only=True)
class ServiceState(ScoringProcess):
    """Everything behind the API. ``example`` is a transaction that the schema accepts, for the documentation;
    ``limit``: the rate limit that replicas share, by default that of the settings for this process."""

    example: Mapping[str, Any]
    limit: RateLimiter | None = None
    pipeline: Pipeline = field(init=False)
    requests: Requests = field(init=False)
    bodies: BodyReader = field(init=False)
    decoder: TransactionDecoder = field(init=False)
    fields: FieldReader = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self.requests = Requests(self.metrics, sys.stderr.fileno() if self.settings.request_log == "all" else None)
        self.metrics.watch("fraud_queue_requests", lambda: self.pipeline.waiting)
        self.metrics.watch("fraud_queue_limit", lambda: self.settings.max_waiting)

    @property
    def serving(self) -> tuple[str, str, int]:
        """The model that serves now: name, version, and how many features it reads."""
        model = self.scorer.model
        return self.settings.model_name, model.version, len(model.bundle.feature_set.inputs)

    def finish(self) -> None:
        """Answer what waits."""
        self.pipeline.close()
        if self.limit is not None:
            self.limit.close()
        self.requests.close()

    def transaction(self, row: Mapping[str, Any]) -> Transaction:
        """The transaction of a request's object that was decoded already; raises RowError."""
        return self.decoder.normalise(row)


def build_state(
    settings: Settings,
    declared: Project,
    model: str,
    registry: Registry,
    history: ReadHistory,
    progress: Progress | None = None,
) -> ServiceState:
    """The state behind the API; see :func:`fraudml.scoring.start.prepare`."""
    parts = start.prepare(settings, declared, model, registry, history, progress)
    bank = wiring.token_bank(settings, parts.shared)
    deadline_s = settings.deadline_ms / 1_000
    limit = None if bank is None else SharedRateLimit(settings.rate_limit_per_s, bank, wait_s=deadline_s)
    return ServiceState(**parts._asdict(), example=example(declared.schema), limit=limit)


def state_of(request: HTTPConnection) -> ServiceState:
    """The state of the app that serves this request."""
    state: ServiceState = request.app.state.service
    return state
