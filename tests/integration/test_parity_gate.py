"""The parity gate end to end: thousands of simulated events through the scorer, out of order, with labels and a
restart in between; then every logged value is recomputed from the log by the offline store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr

from fraudml import project, wiring
from fraudml.decisions import rebuild
from fraudml.decisions.model import Model
from fraudml.decisions.rebuild import bring_up
from fraudml.decisions.record import Decision, pack_vector
from fraudml.decisions.scorer import Scorer
from fraudml.errors import DataError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.models import bundle
from fraudml.monitoring import known, parity
from fraudml.settings import Settings
from fraudml.simulation import LabelDelays, SimulationConfig, write
from tests.support.bundles import make_bundle

ENTITIES = ("customer", "merchant", "device")
HISTORY = 1_500  # rows that the service starts from; the rest is scored


def declaration() -> str:
    features = [
        "{name: amount, kind: attribute, of: amount}",
        "{name: hour, kind: attribute, of: event_time, transform: hour_of_day}",
        "{name: country, kind: attribute, of: ip_country}",
        "{name: prev_country, kind: last, over: customer, of: ip_country}",
        "{name: moved, kind: derived, expression: country != prev_country}",
    ]
    for entity in ENTITIES:
        features.append(f"{{name: {entity}_gap, kind: last, over: {entity}}}")
        for length, resolution in (("1h", "1us"), ("1d", "1us"), ("7d", "1h")):
            window = f"kind: window, over: {entity}, length: {length}, resolution: {resolution}"
            features.append(f"{{name: {entity}_n_{length}, {window}, agg: count}}")
            features += [
                f"{{name: {entity}_{agg}_{length}, {window}, agg: {agg}, of: amount}}"
                for agg in ("sum", "mean", "std", "max")
            ]
            features.append(
                f"{{name: {entity}_ratio_{length}, kind: derived, expression: amount / {entity}_mean_{length}}}"
            )
        features.append(
            f"{{name: {entity}_categories, kind: window, over: {entity}, length: 7d, agg: nunique, of: category}}"
        )
        features += [
            f"{{name: {entity}_{agg}_30d, kind: label_window, over: {entity}, length: 30d, agg: {agg}}}"
            for agg in ("fraud_count", "fraud_rate", "label_count")
        ]
    return "\n".join(
        [
            "schema:",
            "  transaction_id: transaction_id",
            "  event_time: {column: event_time}",
            "  entities: {customer: customer_id, merchant: merchant_id, device: device_id}",
            "  amount: {column: amount}",
            "  attributes:",
            "    ip_country: {type: category, vocabulary: [DE, FR, NL, GB]}",
            "    category: {type: category, column: merchant_category}",
            "  label: {column: is_fraud, known_at: {column: reported_at}}",
            "features:",
            *(f"  - {feature}" for feature in features),
        ]
    )


class World:
    """A project with its history, the events that come after it, and one decision log."""

    def __init__(self, home: Path, redis_url: str | None) -> None:
        self.settings = Settings(home=home, lateness_s=3 * 86_400, redis_url=redis_url, redis_timeout_ms=10_000)
        self.declared = project.parse(declaration())
        self.feature_set = self.declared.feature_set
        delays = LabelDelays(maturity=10.0)
        write(SimulationConfig(customers=60, merchants=12, days=45, seed=3, delays=delays), home / "history.parquet")
        source = wiring.source(
            self.settings, self.declared.schema, [str(home / "history.parquet")], home / "rejects.csv"
        )
        rows = pa.Table.from_batches(list(source.read())).combine_chunks()
        self.history = rows.slice(0, HISTORY).to_batches()
        self.live, self.labels = self._events(rows.slice(HISTORY))
        make_bundle(home / "bundle", self.feature_set)
        self.model = Model(bundle.load(home / "bundle"))
        self.log = wiring.decision_log(self.settings, self.declared.schema)

    def _events(self, rows: pa.Table) -> tuple[list[Transaction], list[Label]]:
        events, labels = [], []
        for row in rows.to_pylist():
            keys = tuple(row[name] for name in ENTITIES)
            attributes = (row["ip_country"], row["category"])
            events.append(
                Transaction(row["transaction_id"], row["event_time_us"], keys, row["amount_minor"], attributes)
            )
            labels.append(Label(row["transaction_id"], row["is_fraud"], row["known_at_us"]))
        return events, labels

    def scorer(self, writer: int = 0) -> Scorer:
        """A scorer as after a start: its state folded from history and log, or found in Redis."""
        store = wiring.online_store(self.settings, self.feature_set)
        bring_up(store, self.log, lambda: iter(self.history), wiring.reach_us(self.settings, self.declared))
        return Scorer(self.model, store, self.log, writer=writer)

    def audit(self, most: int | None = None) -> parity.AuditReport:
        store = wiring.offline_store(self.settings)
        lateness_us = wiring.lateness_us(self.settings)
        try:
            return parity.audit(
                self.log, store, self.feature_set, history=iter(self.history), lateness_us=lateness_us, most=most
            )
        finally:
            store.close()


IN_REDIS = pytest.mark.parametrize("world", ["memory", "redis"], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(rebuild, "COMMIT_S", 0.0)
    is_shared = getattr(request, "param", "memory") == "redis"
    made = World(tmp_path, request.getfixturevalue("redis_url") if is_shared else None)
    yield made
    made.log.close()


def arrivals(world: World, *, shuffled: bool) -> list[Transaction | Label]:
    """Transactions in time order (some overtaken by later ones), labels as they become known."""
    rng = random.Random(5)
    late = [event.event_time_us + (rng.randrange(7_200_000_000) if rng.random() < 0.05 else 0) for event in world.live]
    moments = [(at if shuffled else event.event_time_us, 0, event) for at, event in zip(late, world.live, strict=True)]
    end = max(event.event_time_us for event in world.live)
    known = [(label.known_at_us, 1, label) for label in world.labels if label.known_at_us <= end]
    return [item for _, _, item in sorted([*moments, *known], key=lambda each: each[:2])]


def replay(world: World, items: list[Transaction | Label], scorer: Scorer) -> None:
    """Hand everything over in batches of up to 20 of a kind."""
    batch: list[Transaction | Label] = []
    for item in [*items, None]:
        if batch and (item is None or type(item) is not type(batch[0]) or len(batch) == 20):
            if isinstance(batch[0], Label):
                scorer.add_labels([each for each in batch if isinstance(each, Label)])
            else:
                scorer.score([each for each in batch if isinstance(each, Transaction)])
            batch = []
        if item is not None:
            batch.append(item)


@IN_REDIS
def test_over_100_000_served_values_are_what_the_offline_store_computes(world: World) -> None:
    items = arrivals(world, shuffled=False)
    half = len(items) // 2
    replay(world, items[:half], world.scorer())
    replay(world, items[half:], world.scorer())  # a restart: state rebuilt from history and log
    report = world.audit()
    assert report.decisions == len(world.live)
    assert report.values >= 100_000
    assert (report.differing, report.explained, report.skipped) == (0, 0, 0), report.examples


def test_the_audit_may_run_in_postgres(world: World, postgres_url: str) -> None:
    """Also of late events: there, too, today's history holds more than was known."""
    replay(world, arrivals(world, shuffled=True)[:800], world.scorer())
    here = world.audit()
    world.settings = world.settings.model_copy(update={"offline_url": SecretStr(postgres_url)})
    assert world.audit() == here
    assert here.explained > 0


@IN_REDIS
def test_events_that_come_late_are_explained_and_not_called_skew(world: World) -> None:
    replay(world, arrivals(world, shuffled=True)[:1_500], world.scorer())
    report = world.audit()
    assert report.late > 0
    assert report.explained > 0
    if world.settings.redis_url is None:  # Redis keeps the newest events of a coarse window one by one
        assert report.approximate > 0
    assert report.differing == 0, report.examples


def test_what_came_too_late_is_approximate_and_what_came_just_in_time_is_not(world: World) -> None:
    scorer = world.scorer()
    scorer.score(world.live[:1_500])
    newest_us = max(event.event_time_us for event in world.live[:1_500])
    late = [
        Transaction(
            f"{event.transaction_id}-{days}", newest_us - days * 86_400_000_000, event.entities, 100, (None, None)
        )
        for days in (2, 20)
        for event in world.live[:25]
    ]
    scorer.score(late)
    world.settings = world.settings.model_copy(update={"lateness_s": 1e9})  # what state was kept for, by mistake
    assert world.audit().differing > 0
    world.settings = world.settings.model_copy(update={"lateness_s": 3 * 86_400})
    report = world.audit()
    assert report.approximate > 0
    assert report.differing == 0, report.examples


def test_a_wrong_value_is_found(world: World) -> None:
    scorer = world.scorer()
    spoiled = scorer.model.vectors

    def vectors(batch: list[Transaction], state: object) -> np.ndarray:
        values = spoiled(batch, state)
        values[:, 0] += 1e-3
        return values

    world.model.vectors = vectors  # type: ignore[method-assign]
    scorer.score(world.live[:50])
    report = world.audit()
    assert report.differing == 50
    assert report.by_feature == {"amount": 50}
    assert report.examples[0].served != report.examples[0].recomputed
    some = world.audit(most=10)
    assert (some.differing, some.unjudged, report.unjudged) == (10, 40, 0)


@pytest.mark.parametrize(("writer", "differ"), [(1, False), (0, True)])
def test_between_processes_the_order_of_clocks_need_not_be_that_of_state(
    world: World, writer: int, differ: bool
) -> None:
    """The second event was read before the first one was added, though its number is the greater."""
    first = world.live[0]
    second = next(event for event in world.live[1:] if event.entities[0] == first.entities[0])
    here, there = world.scorer(), world.scorer(writer)
    here.score([first])
    there.score([second])
    report = world.audit()
    assert (report.differing > 0) is differ
    assert (report.explained > 0) is not differ


@pytest.mark.parametrize("world", ["redis"], indirect=True)
@pytest.mark.parametrize("successor", [0, 2])
def test_what_a_process_had_put_into_state_before_it_ended_is_known_to_have_been_seen(
    world: World, successor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "CONCURRENT_US", 0)
    first = world.live[0]
    same = [event for event in world.live if event.entities[0] == first.entities[0]]
    here, there = world.scorer(), world.scorer(1)
    there.decide(same[:2], ["m/0/0", "m/0/1"])  # and was killed
    seen = here.score([same[4]])
    again = world.scorer(successor).try_score([*same[:2], same[3]], ["m/0/0", "m/0/1", "m/0/2"])
    report = world.audit()
    assert (report.decisions, report.differing) == (4, 0), report.examples
    assert report.explained > 0
    entered = [decision.entered_us for decision in again if isinstance(decision, Decision)]
    assert entered[0] == entered[1]
    assert entered[0] is not None
    assert entered[0] < seen[0].arrival
    assert entered[2] is seen[0].entered_us is None


def test_nothing_to_audit_is_said(world: World) -> None:
    with pytest.raises(DataError, match="score something first"):
        world.audit()


def test_packed_vectors_keep_their_values() -> None:
    vector = np.array([1.5, np.nan, -0.0])
    assert np.frombuffer(pack_vector(vector), "<f8").tobytes() == vector.tobytes()
