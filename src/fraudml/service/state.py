"""What the routes share, made once by ``wiring``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import HTTPConnection

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.scorer import Scorer
from fraudml.errors import FieldProblem, RowError
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import Normaliser
from fraudml.events.schema import Schema
from fraudml.events.transaction import Transaction
from fraudml.monitoring.metrics import Metrics
from fraudml.service.fields import FieldReader
from fraudml.service.worker import Worker
from fraudml.settings import Settings

LONGEST_TEXT = 1_000  # characters of an id, an entity's key or a category


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
    fields: FieldReader = field(init=False)
    _normalise: Normaliser = field(init=False)
    _columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._normalise = Normaliser(self.schema, self.hasher)
        self.fields = FieldReader(self.schema, self.hasher)
        attributes = map(self.schema.attribute_column, self.schema.attributes)
        self._columns = (self.schema.id_column, *self.schema.entities.values(), *attributes)

    def transaction(self, row: Mapping[str, Any]) -> Transaction:
        """The transaction of a request's object; raises RowError.

        Beyond what a file may hold, two things are refused because each would stay in online state: a time far
        ahead of this server's clock (state's own clock would follow it, and forget what is younger), and texts of
        any length.
        """
        event = self._normalise(row)
        problems = []
        ahead_s = self.settings.max_ahead_s
        if event.event_time_us > time.time_ns() // 1_000 + ahead_s * 1_000_000:
            expected = f"expected a time at most {ahead_s:g} s ahead of this server's clock"
            problems.append(FieldProblem(self.schema.event_time.column, expected))
        values = (event.transaction_id, *event.entities, *event.attributes)
        for column, value in zip(self._columns, values, strict=True):
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                problems.append(FieldProblem(column, f"expected at most {LONGEST_TEXT} characters"))
        if problems:
            raise RowError(problems)
        return event


def state_of(request: HTTPConnection) -> ServiceState:
    """The state of the app that serves this request."""
    state: ServiceState = request.app.state.service
    return state
