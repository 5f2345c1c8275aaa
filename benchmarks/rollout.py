"""What a change of models costs live traffic: swaps under an open loop, a canary and a shadow under full load."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, serving_setup
from benchmarks.serving_setup import Setup
from fraudml import wiring
from fraudml.cli.bench import driver
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import GOOD, Recorded
from fraudml.cli.bench.server import Target
from fraudml.models import lifecycle
from fraudml.models.registry import Registry
from fraudml.models.rollout import Mode
from fraudml.models.rollout import Plan as Experiment

RATE = 1_000.0
QUIET_S, SWAPPING_S = 30.0, 40.0
EVERY_S = 5.0
AFTER_S = 2.0  # a promotion is seen, loaded, tested and served within that
REFRESH_S = 0.5
FULL_S = 10.0
ROUNDS = 3


def run() -> str:
    """The section of RESULTS.md."""
    with common.workspace() as place:
        setup = serving_setup.prepare(Path(place))
        registry = wiring.registry(common.settings(setup.home))
        registry.register(setup.home / "bundle")
        url = f"sqlite:///{(setup.home / '.fraudml' / 'registry.db').absolute().as_posix()}"
        with setup.fraudml(registry_url=url, refresh_s=str(REFRESH_S)) as target:
            swaps = _swaps(setup, target, registry)
            loads = _loads(setup, target, registry)
    return f"{swaps}\n\n{loads}"


def _swaps(setup: Setup, target: Target, registry: Registry) -> str:
    """An open loop at :data:`RATE`: quiet, then with a promotion every :data:`EVERY_S` seconds."""
    requests = setup.requests(target, 200_000)
    plan = Plan(target.host, target.port, 16, QUIET_S + SWAPPING_S, warmup_s=5.0, rate=RATE, poisson=True)
    found: list[Recorded] = []
    load = threading.Thread(target=lambda: found.append(driver.drive(plan, requests, setup.places.load)))
    load.start()
    began = time.perf_counter()
    moments = []
    while (now := time.perf_counter() - began) < plan.whole_s - EVERY_S:
        if now > plan.warmup_s + QUIET_S + EVERY_S * len(moments):
            moments.append(time.perf_counter())
            lifecycle.promote(registry, 2 - len(moments) % 2, "benchmark")
        time.sleep(0.05)
    load.join()
    (recorded,) = found
    started, latency = np.frombuffer(recorded.started) + recorded.zero, np.frombuffer(recorded.latency) * 1e3
    status = np.frombuffer(recorded.status, dtype=np.uint16)
    first = moments[0]
    quiet = (started > recorded.zero + plan.warmup_s) & (started < first)
    swapping = np.zeros(len(started), np.bool_)
    for moment in moments:
        swapping |= (started > moment) & (started < moment + AFTER_S)
    rows = [
        ["without", f"{quiet.sum():,}", *_quantiles(latency[quiet]), "1"],
        [
            f"in the {AFTER_S:g} s after each of {len(moments)} promotions",
            f"{swapping.sum():,}",
            *_quantiles(latency[swapping]),
            f"{np.quantile(latency[swapping], 0.99) / np.quantile(latency[quiet], 0.99):.2f}",
        ],
    ]
    table = common.table(["swaps", "requests", "p50 ms", "p99 ms", "p99.9 ms", "p99, ratio"], rows)
    failed = int((status != GOOD).sum())
    return f"{table}\n\n{RATE:,.0f} requests/s (open loop, Poisson), 300 trees; {failed} of {len(status):,} failed."


def _loads(setup: Setup, target: Target, registry: Registry) -> str:
    """A closed loop on 16 connections, in interleaved rounds."""
    champion = lifecycle.current(registry).champion
    other = 3 - champion
    kinds = {
        "the champion alone": None,
        "a canary with 20 % of the customers": Experiment(Mode.canary, {other: 0.2}, "customer"),
        "a shadow that sees everything": Experiment(Mode.shadow, {other: 1.0}, "customer"),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, experiment in kinds.items():
            if experiment is not None:
                lifecycle.start(registry, experiment, "benchmark")
            plan = Plan(target.host, target.port, 16, FULL_S, warmup_s=2 * REFRESH_S + 2.0)
            recorded = driver.drive(plan, setup.requests(target, 200_000), setup.places.load)
            rates[name].append(_rate(recorded, plan))
            if experiment is not None:
                lifecycle.abort(registry, "benchmark")
    base = float(np.median(rates["the champion alone"]))
    rows = [[name, f"{np.median(each):,.0f}", f"{np.median(each) / base:.2f}"] for name, each in rates.items()]
    table = common.table(["what serves", "requests/s", "ratio"], rows)
    how = f"Closed loop, 16 connections, server on one core; medians of {ROUNDS} interleaved rounds."
    return f"{table}\n\n{how} The registry is asked every {REFRESH_S:g} s, not every 5 s as by default."


def _rate(recorded: Recorded, plan: Plan) -> float:
    ended = np.frombuffer(recorded.started) + np.frombuffer(recorded.latency)
    good = np.frombuffer(recorded.status, dtype=np.uint16) == GOOD
    return float((good & (ended >= plan.warmup_s) & (ended < plan.whole_s)).sum()) / plan.seconds


def _quantiles(latency: NDArray[np.float64]) -> list[str]:
    return [f"{np.quantile(latency, share):.2f}" for share in (0.5, 0.99, 0.999)]
