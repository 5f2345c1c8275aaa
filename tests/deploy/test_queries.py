"""What dashboards and alerts ask is answered: by a real Prometheus that scrapes a running service under load."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from deploy.grafana import build
from tests.docs.blocks import ROOT
from tests.support import exporters, promql, trained
from tests.support.commands import well
from tests.support.servers import prometheus
from tests.support.servers.prometheus import Prometheus, now_not_then
from tests.support.serving import an_example, serving

RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
CLIENTS = 4
PATIENCE_S = 40.0
# A cost, an objective that some requests miss, and a queue that is full sometimes: so all of that has a value, too.
SETTINGS = {"cost_per_hour": "0.5", "latency_objective_ms": "2", "max_waiting": "1", "cache": "on"}

pytestmark = pytest.mark.skipif(prometheus.PROGRAM is None, reason="no Prometheus")


class Asked(NamedTuple):
    """An expression, as Prometheus gets it."""

    where: str
    expr: str


def panels() -> Iterator[Asked]:
    """Every query of every panel, as Grafana sends it while nothing is chosen."""
    for board in build.dashboards():
        for panel in board.panels or []:
            for target in getattr(panel, "targets", None) or []:
                yield Asked(f"{board.title}: {panel.title}", now_not_then(promql.chosen(target.expr)))
        for mark in board.annotations.list_val or []:
            yield Asked(f"{board.title}: {mark.name}", str(mark.expr))


def alerts() -> Iterator[Asked]:
    """Every alert's condition. Most are empty while all is well."""
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            yield from (Asked(rule["alert"], now_not_then(rule["expr"])) for rule in group["rules"] if "alert" in rule)


SHOWN = [asked for asked in panels() if "offset" not in asked.expr]
ALERTS = list(alerts())
SELECTORS = sorted({selector for asked in (*panels(), *ALERTS) for selector in promql.selectors(asked.expr)})


class Answers(NamedTuple):
    """``server``: to ask more; ``empty``: the expressions that got no value all the time."""

    server: Prometheus
    empty: set[str]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What Prometheus says once it has a value for each, or when waiting for that is no use any more."""
    directory = trained.project(tmp_path_factory.mktemp("watched"))
    key = well("keys", "create", "checkout", "--scope", "admin", cwd=directory).out.strip()
    with ExitStack() as running:
        service = running.enter_context(serving(directory, **SETTINGS))
        targets = {
            "fraudml-service": f"127.0.0.1:{service.port}",
            "fraudml-worker": running.enter_context(exporters.worker()),
            "fraudml-monitor": running.enter_context(exporters.monitor()),
        }
        server = running.enter_context(prometheus.server(tmp_path_factory.mktemp("prometheus"), targets, RULES))
        ending = threading.Event()
        clients = running.enter_context(ThreadPoolExecutor(CLIENTS))
        running.callback(ending.set)
        load = [clients.submit(use, service.client(key), f"client-{number}", ending) for number in range(CLIENTS)]
        empty = {asked.expr for asked in SHOWN} | set(SELECTORS)
        until_s, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while empty and time.monotonic() < until_s and not any(each.done() for each in load):
            pause.wait(0.5)
            empty.difference_update([expr for expr in empty if has_value(server, expr)])
        for each in load:
            assert not each.done(), each.result()
        yield Answers(server, empty)


def has_value(server: Prometheus, expr: str) -> bool:
    """Whether it is a number for at least one series; a share of nothing is none."""
    return any(math.isfinite(float(series["value"][1])) for series in server.query(expr))


def use(client: httpx.Client, name: str, ending: threading.Event) -> None:
    """Be a client that sends good and bad transactions, repeats, reports frauds and asks for what is not there."""
    with client:
        example = an_example(client)
        for number in itertools.count():
            if ending.is_set():
                return
            sent = example | {"transaction_id": f"{name}-{number}", "amount": 1.0 + number % 7 * 300}
            report = {"transaction_id": sent["transaction_id"], "is_fraud": number % 3 == 0}
            client.post("/v1/predict", json=sent)
            client.post("/v1/predict", json=sent)
            client.post("/v1/labels", json={"labels": [report]})
            if number % 5 == 0:
                client.post("/v1/predict", json=sent | {"amount": 7.0})  # a known id with other content
                client.post("/v1/predict", json=sent | {"amount": "much"})
                client.get("/v1/nothing")


@pytest.mark.parametrize("asked", SHOWN, ids=lambda asked: asked.where)
def test_a_panel_has_values(asked: Asked, answers: Answers) -> None:
    assert asked.expr not in answers.empty


@pytest.mark.parametrize("selector", SELECTORS)
def test_what_is_selected_is_there(selector: str, answers: Answers) -> None:
    """Also in alerts, which are rightly empty, and where a panel shows 0 for what has not happened yet."""
    assert selector not in answers.empty


def test_every_alert_can_be_evaluated(answers: Answers) -> None:
    for asked in ALERTS:
        answers.server.query(asked.expr)


def test_no_rule_fails(answers: Answers) -> None:
    rules: list[dict[str, Any]] = answers.server.rules()
    assert len(rules) >= len(ALERTS)
    assert not [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"]
