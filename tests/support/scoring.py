"""A small world to score in: a schema, features, an exact online store and a model whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudml.decisions.record import Action, Decision, Timings, pack_vector
from fraudml.errors import BundleError, OnlineStoreError
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.transaction import Transaction
from fraudml.features.derive import to_model
from fraudml.features.reference import as_float, state_value
from fraudml.features.spec import (
    Aggregation,
    AttributeFeature,
    FeatureSet,
    LabelAggregation,
    LabelWindowFeature,
    WindowFeature,
)
from fraudml.features.stores import StateRead
from fraudml.models.bundle import Bundle, Manifest, Thresholds, TrainingRecord

SCHEMA = Schema(
    TimeColumn("time"),
    "tx_id",
    {"customer": "cust_no", "terminal": "term"},
    AmountColumn("amount"),
    {
        "country": Attribute(AttributeType.category, vocabulary=("DE", "FR")),
        "distance": Attribute(AttributeType.number, column="dist_km"),
        "items": Attribute(AttributeType.integer),
    },
).check()
FEATURES = FeatureSet(
    SCHEMA,
    [
        AttributeFeature("amount", of="amount"),
        AttributeFeature("distance", of="distance"),
        WindowFeature("n_1d", "customer", Aggregation.count, "1d"),
        WindowFeature("sum_1d", "customer", Aggregation.sum, "1d", of="amount"),
        LabelWindowFeature("frauds_30d", "terminal", LabelAggregation.fraud_count, "30d"),
    ],
)
T0 = 1_714_521_600_000_000  # 2024-05-01T00:00:00Z
SECOND = 1_000_000


def transaction(number: int, *, customer: str | None = "c1", amount: int = 1_000, **changes: Any) -> Transaction:
    """Transaction ``t<number>`` at T0 plus that many seconds."""
    values = {"country": "DE", "distance": 2.5, "items": 3} | changes
    attributes = (values["country"], values["distance"], values["items"])
    return Transaction(f"t{number}", T0 + number * SECOND, (customer, "term-1"), amount, attributes)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """The same as a request."""
    fields = {
        "tx_id": f"t{number}",
        "time": f"2024-05-01T00:{number // 60:02d}:{number % 60:02d}Z",
        "cust_no": "c1",
        "term": "term-1",
        "amount": 10.0,
        "country": "DE",
        "dist_km": 2.5,
        "items": 3,
    }
    return fields | changes


def decision(event: Transaction, arrival: int, **changes: Any) -> Decision:
    """A decision made up for a log."""
    values: dict[str, Any] = {
        "transaction": event,
        "vector": pack_vector(np.array([1.5, np.nan, -0.0])),
        "score": 0.1 + 0.2,
        "action": Action.approve,
        "model_version": "1",
        "fingerprint": FEATURES.fingerprint,
        "arrival": arrival,
        "decided_at_us": arrival + 7,
        "timings": Timings(1, 2, 3),
    }
    return Decision(**values | changes)


class ReferenceStore:
    """An online store that keeps everything and asks the reference; ``broken`` makes it fail."""

    def __init__(self, feature_set: FeatureSet = FEATURES) -> None:
        self.feature_set = feature_set
        self.events: list[Transaction] = []
        self.labels: list[Label] = []
        self.broken = False
        self.shared = False

    def lost(self) -> bool:
        return False

    def claim_load(self) -> bool:
        return True

    def give_up_load(self) -> None:
        pass

    def loaded(self) -> None:
        self._check()

    def behind(self) -> int | None:
        return None

    def confirm(self, arrival: int) -> None:
        self._check()

    def set_mark(self, text: str) -> None:
        self._check()

    def mark(self) -> str | None:
        self._check()
        return None

    def read_then_update(self, transactions: Sequence[Transaction], *, trace: bool = False) -> StateRead:
        self._check()
        reads = []
        for event in transactions:
            reads.append(self.read([event]))
            self.events.append(event)
        return StateRead(np.concatenate([r.values for r in reads]), np.concatenate([r.late for r in reads]))

    def read(self, transactions: Sequence[Transaction]) -> StateRead:
        self._check()
        fs = self.feature_set
        values = [
            [as_float(state_value(fs, f, event, self.events, self.labels)) for f in fs.state_features]
            for event in transactions
        ]
        late = [self._late(event) for event in transactions]
        return StateRead(np.array(values, dtype=np.float64).reshape(len(late), -1), np.array(late))

    def add_labels(self, labels: Sequence[Label], *, again: bool = False) -> None:
        self._check()
        self.labels.extend(labels)

    def load(self, events: pa.RecordBatch) -> None:
        for line in events.to_pylist():
            keys = tuple(line[name] for name in self.feature_set.schema.entity_names)
            attributes = tuple(line[name] for name in self.feature_set.schema.attribute_names)
            event = Transaction(line["transaction_id"], line["event_time_us"], keys, line["amount_minor"], attributes)
            self.events.append(event)
            if line["is_fraud"] is not None:
                self.labels.append(Label(event.transaction_id, line["is_fraud"], line["known_at_us"], keys))

    def stats(self) -> dict[str, Any]:
        return {"entities": 0, "events": len(self.events)}

    def _late(self, event: Transaction) -> bool:
        return any(
            e.event_time_us > event.event_time_us
            and any(a == b for a, b in zip(e.entities, event.entities, strict=True))
            for e in self.events
        )

    def _check(self) -> None:
        if self.broken:
            raise OnlineStoreError("the store is broken by the test")


class CountingRuntime:
    """Log-odds = amount in thousands of minor units + events in the window - 3; a missing value counts as 0."""

    def __init__(self) -> None:
        self.broken = False
        self.nonsense = False

    def log_odds(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        if self.broken:
            raise BundleError("the model is broken by the test")
        filled = np.nan_to_num(vectors.astype(np.float64))
        return filled[:, 0] / 1_000 + filled[:, 2] - 3

    def score(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        scores = 1 / (1 + np.exp(-self.log_odds(vectors)))
        return np.full_like(scores, np.nan) if self.nonsense else scores


def bundle(version: str = "1", feature_set: FeatureSet = FEATURES) -> Bundle:
    """A bundle around the counting model; its thresholds are 0.3 and 0.9."""
    width = len(feature_set.inputs)
    manifest = Manifest(
        fraudml_version="0",
        created_at="2024-05-01T00:00:00+00:00",
        family="counting",
        schema=feature_set.schema,
        features=feature_set.features,
        fingerprint=feature_set.fingerprint,
        training=TrainingRecord(0, 1, 1, 1, "", 0),
        metrics={},
        thresholds=Thresholds(0.3, 0.9),
        onnx_sha256="",
        reference_inputs=[],
        reference_scores=[],
        background=[[0.0] * width, [500.0] + [None] * (width - 1)],
        example=row(1),
    )
    return Bundle(manifest, feature_set, CountingRuntime(), version)  # type: ignore[arg-type]


def scores_of(vectors: NDArray[np.float64]) -> list[float]:
    """What the counting model gives."""
    return CountingRuntime().score(to_model(vectors)).tolist()
