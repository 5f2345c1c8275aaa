"""An installation whose weeks pass in seconds: simulated payments, the product's own counting and its own log.

Every step is a scrape: what the metrics say then becomes a point of each series, as Prometheus would have it. Nothing
here knows an alert.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from prometheus_client import CollectorRegistry

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.costs import Costs
from fraudml.decisions.record import Action, Decision, Degradation, LabelReport, Timings, pack_vector
from fraudml.events.label import Label
from fraudml.events.schema import AmountColumn, Attribute, AttributeType, Schema, TimeColumn
from fraudml.events.transaction import Transaction
from fraudml.features.spec import Aggregation, AttributeFeature, FeatureSet, WindowFeature
from fraudml.monitoring import jobs
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.monitor import Monitor
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.simulation import SimulationConfig, simulate

PROMTOOL = shutil.which("promtool")
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
SCHEMA = Schema(
    TimeColumn("event_time"),
    "transaction_id",
    {"customer": "customer_id"},
    AmountColumn("amount"),
    {
        "channel": Attribute(AttributeType.category, vocabulary=("online", "store")),
        "category": Attribute(AttributeType.category, vocabulary=("grocery",), column="merchant_category"),
    },
).check()
FEATURES = FeatureSet(
    SCHEMA, [AttributeFeature("amount", of="amount"), WindowFeature("n_1d", "customer", Aggregation.count, "1d")]
)
START = date(2026, 1, 5)
START_US = 1_767_571_200_000_000
REFERENCE_DAYS = 28


class Payment(NamedTuple):
    """A simulated transaction, and when its label became known."""

    event: Transaction
    amount: float
    is_fraud: bool
    known_us: int


class Moment:
    """What an incident changes: of the decisions of a step, and of what else is measured."""

    amount: Callable[[float], float] = staticmethod(lambda amount: amount)
    fraud_share: float = 0.0  # of transactions that are frauds beside those that are simulated
    latency_s: float = 0.008
    model_fails = False
    labels_come = True
    stream_moves = True
    up: dict[str, bool]

    def __init__(self) -> None:
        self.up = dict.fromkeys(("online_store", "decision_log", "registry", "model_server", "redis"), True)


def payments(days: int, customers: int = 900, fraud_rate: float = 0.007) -> Iterator[Payment]:
    """About 1,200 a day, in order of time."""
    config = SimulationConfig(customers=customers, merchants=120, days=days, start=START, fraud_rate=fraud_rate)
    for table in simulate(config):
        for row in table.to_pylist():
            attributes = (row["channel"], row["merchant_category"])
            time_us, amount = int(row["event_time"].timestamp() * 1e6), float(row["amount"])
            event = Transaction(row["transaction_id"], time_us, (row["customer_id"],), round(amount * 100), attributes)
            yield Payment(event, amount, bool(row["is_fraud"]), int(row["reported_at"].timestamp() * 1e6))


def without_waves(traffic: Iterable[Payment], most: int = 2) -> Iterator[Payment]:
    """The same without what is more than so many frauds in an hour: the simulator has campaigns of fifty in two hours,
    and those are no quiet weeks."""
    hour, frauds = 0, 0
    for payment in traffic:
        if payment.event.event_time_us // HOUR_US != hour:
            hour, frauds = payment.event.event_time_us // HOUR_US, 0
        frauds += payment.is_fraud
        if not payment.is_fraud or frauds <= most:
            yield payment


class Installation:
    """One service, one worker's stream and one monitor. ``now_us`` moves with :meth:`step`."""

    def __init__(self, folder: Path, traffic: Iterable[Payment]) -> None:
        self.now_us = START_US
        self.moment = Moment()
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'incidents.db'}", SCHEMA)
        self._start()
        self.monitor = Monitor(
            {
                "drift": jobs.drift(self.log, FEATURES, ahead_us=HOUR_US, clock=self.clock),
                "performance": jobs.performance(self.log, SCHEMA, Costs(), clock=self.clock),
            }
        )
        self._traffic = iter(traffic)
        self._next = next(self._traffic, None)
        self._random = np.random.default_rng(7)
        self._seen: dict[str, deque[int]] = defaultdict(deque)
        self._labels: list[tuple[int, Payment]] = []
        self._arrival = 0
        self._looked_us = 0
        self.monitor_every_us = 6 * HOUR_US  # less often than a real one: a look takes longer than the hours here
        self._lag = 0.0

    def clock(self) -> int:
        """The time that it is there."""
        return self.now_us

    def _start(self) -> None:
        """The processes, as after a start."""
        self.metrics = Metrics()
        self.stream = StreamMetrics(self.metrics.collector)
        for name in self.moment.up:
            self.metrics.watch_dependency(name, lambda name=name: self.moment.up[name])

    def history(self, days: int) -> None:
        """Days that nobody scraped: only the log has them."""
        for _ in range(days * 4):
            self.step(6 * HOUR_US)
        self._start()

    def step(self, length_us: int) -> None:
        """What happens in that time."""
        until_us = self.now_us + length_us
        decided, coming = [], []
        while self._next is not None and self._next.event.event_time_us < until_us:
            payment = self._next
            self._next = next(self._traffic, None)
            if self._random.random() < self.moment.fraud_share:
                payment = payment._replace(is_fraud=True)
            decided.append(self._decide(payment))
            if payment.is_fraud:
                coming.append((payment.known_us, payment))
        self.now_us = until_us
        if decided:
            self.log.append(decided)
        self.metrics.batch(decided, {})
        for _ in decided:
            self.metrics.answered("predict", self.moment.latency_s * float(self._random.lognormal(0, 0.3)))
            self.metrics.request("/v1/predict", 200, "shop")
        self._labels += coming
        self._report()
        self._move(len(decided))

    def look(self) -> None:
        """The monitor's turn, if it has come."""
        if self.now_us - self._looked_us >= self.monitor_every_us:
            self._looked_us = self.now_us
            assert self.monitor.look()

    def _decide(self, payment: Payment) -> Decision:
        event, random = payment.event, self._random
        before = self._seen[str(event.entities[0])]
        while before and before[0] < event.event_time_us - DAY_US:
            before.popleft()
        vector = np.array([self.moment.amount(payment.amount), float(len(before))])
        before.append(event.event_time_us)
        score = float(random.beta(4, 3) if payment.is_fraud else random.beta(0.4, 20))
        failed = self.moment.model_fails
        action = Action.review if failed or score > 0.3 else Action.approve
        self._arrival = max(self._arrival + 64, event.event_time_us + 1_000)
        return Decision(
            transaction=event,
            vector=pack_vector(vector),
            score=None if failed else score,
            action=action,
            model_version="1",
            fingerprint=FEATURES.fingerprint,
            arrival=self._arrival,
            decided_at_us=self._arrival,
            timings=Timings(1, 1, 1),
            degraded=(Degradation.model,) if failed else (),
        )

    def _report(self) -> None:
        due = [payment for known_us, payment in self._labels if known_us <= self.now_us]
        self._labels = [each for each in self._labels if each[0] > self.now_us]
        if not self.moment.labels_come:
            return
        reports = []
        for payment in due:
            self._arrival += 64
            label = Label(payment.event.transaction_id, True, payment.known_us, payment.event.entities)
            reports.append(LabelReport(label, max(self._arrival, payment.known_us + 1_000)))
            self._arrival = reports[-1].arrival
            self.metrics.reported(True)
        if reports:
            self.log.append_labels(reports)

    def _move(self, count: int) -> None:
        """The topic: what comes is handled, unless the worker is stuck."""
        self._lag = self._lag + count if not self.moment.stream_moves else 0.0
        if self.moment.stream_moves:
            self.stream.handled("transactions", "decided", count)
        self.stream.lag("transactions", {("transactions", 0): int(self._lag)})


class Recording:
    """Every point of every series that rules use, from the first scrape on."""

    def __init__(self, used: set[str]) -> None:
        self._used = used
        self._series: dict[str, list[str]] = {}
        self._steps = 0

    def scrape(self, world: Installation) -> None:
        """One more point of each."""
        registries = (("fraudml-service", world.metrics.collector), ("fraudml-monitor", world.monitor.collector))
        now: dict[str, str] = {}
        for job, registry in registries:
            now[f'up{{job="{job}",instance="{job}"}}'] = "1"
            now.update(self._samples(job, registry))
        for name in now.keys() - self._series.keys():
            self._series[name] = ["_"] * self._steps
        for name, values in self._series.items():
            values.append(now.get(name, "_"))
        self._steps += 1

    def _samples(self, job: str, registry: CollectorRegistry) -> Iterator[tuple[str, str]]:
        for family in registry.collect():
            for sample in family.samples:
                if sample.name in self._used:
                    labels = {**sample.labels, "job": job, "instance": job}
                    told = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
                    yield f"{sample.name}{{{told}}}", f"{sample.value:g}"

    def series(self) -> list[dict[str, str]]:
        """As ``promtool test rules`` reads them."""
        return [{"series": name, "values": " ".join(values)} for name, values in self._series.items()]


class Asked(NamedTuple):
    """A question to Prometheus and the number that is its answer."""

    expr: str
    at_us: int
    answer: float


def ask(folder: Path, rules: Iterable[Path], recording: Recording, step_us: int, asked: Iterable[Asked]) -> str:
    """What promtool has to say against the answers; nothing when all are right. ``at_us``: since the first scrape."""
    assert PROMTOOL is not None
    interval = f"{step_us // 1_000_000}s"
    groups = [group["name"] for path in rules for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    questions: list[dict[str, Any]] = [
        {"expr": each.expr, "eval_time": f"{each.at_us // 1_000_000}s", "exp_samples": [{"value": each.answer}]}
        for each in asked
    ]
    document = {
        "rule_files": [str(path) for path in rules],
        "evaluation_interval": interval,
        "group_eval_order": groups,
        "tests": [{"interval": interval, "input_series": recording.series(), "promql_expr_test": questions}],
    }
    path = folder / "incident.yml"
    path.write_text(yaml.safe_dump(document, width=10**9), encoding="utf-8")
    done = subprocess.run([PROMTOOL, "test", "rules", path], capture_output=True, text=True, check=False, timeout=600)
    return "" if done.returncode == 0 else done.stdout + done.stderr
