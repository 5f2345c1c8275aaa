"""What the routes share, made once by ``wiring``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.scorer import Scorer
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import Normaliser
from fraudml.events.schema import Schema
from fraudml.monitoring.metrics import Metrics
from fraudml.service.fields import FieldReader
from fraudml.service.worker import Worker
from fraudml.settings import Settings


@dataclass
class ServiceState:
    """Everything behind the API. ``example`` is a transaction that the schema accepts, for the documentation.

    ``metrics`` should be the one whose ``stage`` the scorer was given.
    """

    schema: Schema
    hasher: CardHasher
    scorer: Scorer
    log: DecisionLog
    settings: Settings
    example: Mapping[str, Any]
    metrics: Metrics = field(default_factory=Metrics)
    worker: Worker = field(default_factory=Worker)
    normaliser: Normaliser = field(init=False)
    fields: FieldReader = field(init=False)

    def __post_init__(self) -> None:
        self.normaliser = Normaliser(self.schema, self.hasher)
        self.fields = FieldReader(self.schema, self.hasher)


def state_of(request: HTTPConnection) -> ServiceState:
    """The state of the app that serves this request."""
    state: ServiceState = request.app.state.service
    return state
