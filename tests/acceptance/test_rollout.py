"""A canary from its start to its end, on two real services behind one registry, one PostgreSQL and one Redis.

A challenger that looks the same but ranks the wrong way round is found out by the labels and undone by itself; then a
better one is tried, raised, promoted, and serves.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from fraudml import project as projects
from fraudml import wiring
from fraudml.features.spec import FeatureSet
from fraudml.models import lifecycle
from fraudml.models.bundle import Thresholds
from fraudml.settings import Settings
from tests.support import prepared
from tests.support.bundles import make_bundle
from tests.support.commands import refused, well
from tests.support.serving import Running, serving
from tests.support.waiting import until

DECLARED = """
schema:
  transaction_id: tx
  event_time: {column: time}
  entities: {customer: customer_id, merchant: merchant_id}
  amount: {column: amount}
  label: {column: is_fraud, delay: 1s}
features:
  - {name: amount, kind: attribute, of: amount}
  - {name: n_1d, kind: window, over: customer, agg: count, length: 1d}
  - {name: frauds_30d, kind: label_window, over: merchant, agg: fraud_count, length: 30d}
"""
APPLIED_WITHIN_S = 10
BATCH = 50
FRAUD_FROM = 85_000  # minor units: 15 % of the amounts, of which the champion sees those from 90,000 on


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with three versions that review 10, 10 and 14 % of the traffic; the first one is the champion."""
    directory = tmp_path_factory.mktemp("rollout")
    (directory / "fraudml.yaml").write_text(DECLARED, encoding="utf-8")
    feature_set = projects.parse(DECLARED).feature_set
    registry = wiring.registry(Settings(_env_file=None, home=prepared.empty_registry(directory / ".fraudml")))
    for name, sign, middle in (("large amounts", 1, 90_000), ("small", -1, 10_000), ("larger range", 1, 86_000)):
        make_bundle(
            directory / name,
            feature_set,
            weights=[sign / 5_000, 0.0, 0.0],
            bias=-sign * middle / 5_000,
            thresholds=Thresholds(0.5, 1.1),
            family=name.replace(" ", "_"),
        )
        registry.register(directory / name)
    lifecycle.promote(registry, 1, "the first")
    return directory


@pytest.fixture
def backends(postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDML_DATABASE_URL", postgres_url)
    monkeypatch.setenv("FRAUDML_REDIS_URL", redis_url)


@dataclass
class Traffic:
    """Payments of 400 customers, sent to all services in turn, and labels for each of them."""

    clients: list[httpx.Client]
    number: int = 0
    arms: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    answers: list[dict[str, Any]] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def send(self, batches: int = 1) -> list[dict[str, Any]]:
        """The decisions on the next batches; none may fail."""
        found: list[dict[str, Any]] = []
        for _ in range(batches):
            client = self.clients[self.number // BATCH % len(self.clients)]
            rows = [self.row() for _ in range(BATCH)]
            answer = client.post("/v1/batch-predict", json={"transactions": rows})
            assert answer.is_success, answer.text
            results = answer.json()["results"]
            for row, result in zip(rows, results, strict=True):
                assert result["degraded"] == [], result
                self.arms[row["customer_id"]].add(result["arm"])
            frauds = [{"transaction_id": r["tx"], "is_fraud": r["amount"] * 100 >= FRAUD_FROM} for r in rows]
            answer = client.post("/v1/labels", json={"labels": frauds})
            assert answer.json()["failed"] == 0, answer.text
            found += results
        self.answers += found
        return found

    def row(self) -> dict[str, Any]:
        self.number += 1
        return {
            "tx": f"t{self.number}",
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "customer_id": f"c{self.rng.integers(400)}",
            "merchant_id": f"m{self.rng.integers(20)}",
            "amount": int(self.rng.integers(100_000)) / 100,
        }

    def forget_arms(self) -> dict[str, set[str]]:
        """The arms of each customer until now."""
        before, self.arms = self.arms, defaultdict(set)
        return before


def metric(client: httpx.Client, line: str) -> float:
    text = client.get("/metrics").text
    return next((float(each.rpartition(" ")[2]) for each in text.splitlines() if each.startswith(line)), 0.0)


def everywhere(clients: list[httpx.Client], line: str, value: float) -> float:
    """Wait until every service's metric has the value; how long that took."""
    began = time.monotonic()
    until(lambda: all(metric(client, line) == value for client in clients), f"{line} never was {value} everywhere")
    return time.monotonic() - began


def rollout(home: Path, *arguments: str) -> Any:
    return well("rollout", *arguments, "--json", cwd=home).json


@pytest.fixture
def services(home: Path, backends: None) -> Iterator[list[Running]]:
    well("features", "materialize", cwd=home)
    with ExitStack() as opened:
        yield [opened.enter_context(serving(home)) for _ in range(2)]


def test_a_whole_canary(home: Path, services: list[Running]) -> None:
    key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
    with ExitStack() as opened:
        clients = [opened.enter_context(service.client(key)) for service in services]
        traffic = Traffic(clients)
        assert {each["model_version"] for each in traffic.send(4)} == {"1"}

        a_bad_one_is_undone_by_its_labels(home, traffic)
        a_good_one_is_raised_and_promoted(home, traffic)

    kinds = [entry["change"]["kind"] for entry in rollout(home, "history")]
    assert kinds == ["promote", "start", "breach", "start", "set", "promote"]
    assert "version 1" in well("rollout", "history", cwd=home).out
    audit = well("features", "audit", "--json", cwd=home).json
    assert (audit["decisions"], audit["differing"]) == (traffic.number, 0), audit["examples"]
    assert well("models", "rollback", "--reason", "just to see", "--json", cwd=home).json["version"] == 1


def a_bad_one_is_undone_by_its_labels(home: Path, traffic: Traffic) -> None:
    assert "version 9" in refused("rollout", "start", "--challenger", "9", "--share", "50%", cwd=home)
    assert "above 100 %" in refused(
        "rollout", "start", "--challenger", "2", "--challenger", "3", "--share", "60%", cwd=home
    )
    started = rollout(home, "start", "--challenger", "2", "--share", "50%", "--reason", "looks the same")
    assert started["experiment"]["entity"] == "customer"
    assert everywhere(traffic.clients, 'fraud_rollout_share{arm="challenger-2",version="2"}', 0.5) < APPLIED_WITHIN_S
    assert "under way" in refused("rollout", "start", "--challenger", "3", cwd=home)
    traffic.forget_arms()
    first = len(traffic.answers)
    while not any(metric(client, "fraud_rollout_breached") for client in traffic.clients):
        assert len(traffic.answers) - first < 20_000, well("rollout", "status", cwd=home).out
        traffic.send()
    arms = traffic.forget_arms()
    assert {"champion", "challenger-2"} == set().union(*arms.values())
    served_by = {"champion": "1", "challenger-2": "2"}
    assert all(served_by[each["arm"]] == each["model_version"] for each in traffic.answers[first:])
    assert everywhere(traffic.clients, 'fraud_rollout_share{arm="champion",version="1"}', 1.0) < APPLIED_WITHIN_S
    status: Any = None

    def is_over() -> bool:  # which the document says some moments after a service does
        nonlocal status
        status = rollout(home, "status")["rollout"]
        return status["experiment"] is None

    until(is_over)
    assert status["change"]["kind"] == "breach"
    assert "guardrail cost" in status["change"]["reason"]
    assert {each["model_version"] for each in traffic.send(4)} == {"1"}


def a_good_one_is_raised_and_promoted(home: Path, traffic: Traffic) -> None:
    rollout(home, "start", "--challenger", "3", "--share", "20%")
    everywhere(traffic.clients, 'fraud_rollout_share{arm="challenger-3",version="3"}', 0.2)
    traffic.forget_arms()
    traffic.send(40)
    before = traffic.forget_arms()
    assert all(len(arms) == 1 for arms in before.values()), "an entity has one arm, at both services"
    assert "at most 5%" in refused("rollout", "set", "--share", "50%", "--explore", "10%", cwd=home)
    assert "not nan" in refused("rollout", "set", "--explore", "1%", "--explore-most", "nan", cwd=home)
    (challenger,) = rollout(home, "status")["rollout"]["experiment"]["challengers"]
    assert sum(end - start for start, end in challenger["slots"]) == 200_000, "what is refused changes nothing"
    rollout(home, "set", "--share", "50%")
    everywhere(traffic.clients, 'fraud_rollout_share{arm="challenger-3",version="3"}', 0.5)
    traffic.send(80)
    after = traffic.forget_arms()
    assert all(len(arms) == 1 for arms in after.values())
    moved = [(before[c], after[c]) for c in before.keys() & after.keys() if before[c] != after[c]]
    assert moved
    assert all(move == ({"champion"}, {"challenger-3"}) for move in moved), "nobody moves who need not"
    status = rollout(home, "status")
    assert not any(check["breached"] for check in status["checks"]["3"])
    (report,) = rollout(home, "report", "--maturity", "0s").values()
    assert not report["split"]["flagged"]
    assert report["challenger"]["decisions"] > 1_000
    loss = next(figure for figure in report["figures"] if figure["name"] == "fraud_loss")
    assert loss["concluded"]
    assert loss["difference"]["high"] < 0
    assert "less per 1,000 transactions" in report["conclusion"]
    assert "less per 1,000 transactions" in well("rollout", "report", "--maturity", "0s", cwd=home).out
    promoted = rollout(home, "promote", "--reason", report["conclusion"])
    assert (promoted["champion"], promoted["experiment"]) == (3, None)
    assert everywhere(traffic.clients, 'fraud_model_info{model="fraud",version="3"}', 1.0) < APPLIED_WITHIN_S
    assert {each["model_version"] for each in traffic.send(4)} == {"3"}


def test_a_service_starts_and_keeps_its_arms_while_the_registry_is_gone(home: Path, backends: None) -> None:
    well("features", "materialize", cwd=home)
    key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
    rollout(home, "start", "--challenger", "3", "--share", "50%")  # not the bad one: it would be found out again
    with serving(home) as service, service.client(key) as client:
        traffic = Traffic([client])
        traffic.send(20)
    before = traffic.forget_arms()
    store = home / ".fraudml" / "registry.db"
    hidden = store.rename(store.with_name("hidden.db"))
    store.mkdir()  # it cannot be opened
    try:
        with serving(home) as service, service.client(key) as client:
            arms: dict[str, set[str]] = {}
            for customer in before:
                answer = client.post("/v1/predict", json=traffic.row() | {"customer_id": customer}).json()
                assert answer["degraded"] == ["registry"]
                arms[customer] = {answer["arm"]}
        assert arms == before
    finally:
        store.rmdir()
        hidden.rename(store)
    rollout(home, "abort", "--reason", "the test is over")


def test_a_challenger_that_needs_what_the_store_does_not_keep(home: Path) -> None:
    declared = projects.parse(DECLARED)
    more = projects.parse(DECLARED + "  - {name: n_7d, kind: window, over: customer, agg: count, length: 7d}\n")
    assert isinstance(declared.feature_set, FeatureSet)
    make_bundle(home / "more", more.feature_set)
    registry = wiring.registry(Settings(_env_file=None, home=home / ".fraudml"))
    version = registry.register(home / "more").version
    said = refused("rollout", "start", "--challenger", str(version), cwd=home)
    assert "does not keep n_7d" in said
    assert rollout(home, "status")["rollout"]["experiment"] is None
