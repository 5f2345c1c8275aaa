"""What a change of models costs live traffic: swaps under an open loop, a canary and a shadow under full load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import common, serving_setup
from benchmarks.serving_setup import Setup
from fraudml import wiring
from fraudml.cli.bench import child, driver
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import GOOD, Recorded
from fraudml.cli.bench.server import Target
from fraudml.models import lifecycle
from fraudml.models.registry import Registry
from fraudml.models.rollout import Mode
from fraudml.models.rollout import Plan as Experiment

RATE = 1_000.0
SWAPS, WAIT_S, EVERY_S = 10, 12.0, 6.0
LOOK_S = 2.0  # a promotion is seen, loaded, tested and served within that
QUIET = f"in the {LOOK_S:g} s before a promotion"
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
            swaps = _swaps(setup, target)
            loads = _loads(setup, target, registry)
    return f"{swaps}\n\n{loads}"


def _swaps(setup: Setup, target: Target) -> str:
    """An open loop at :data:`RATE` with a promotion every :data:`EVERY_S` seconds; before each it is quiet."""
    rounds = [_round(setup, target) for _ in range(ROUNDS)]
    rows = []
    for name in rounds[0]:
        ratios = sorted(np.quantile(each[name], 0.99) / np.quantile(each[QUIET], 0.99) for each in rounds)
        latency = np.concatenate([each[name] for each in rounds])
        rows.append([name, f"{len(latency):,}", *_quantiles(latency), ", ".join(f"{ratio:.2f}" for ratio in ratios)])
    table = common.table(["when", "requests", "p50 ms", "p99 ms", "p99.9 ms", "p99, ratio in each round"], rows)
    how = (
        f"{RATE:,.0f} requests/s (open loop, Poisson), 300 trees, {ROUNDS} rounds of {SWAPS} promotions by a process "
        "of low priority that shares a core with the load. No request failed."
    )
    return f"{table}\n\n{how}"


def _round(setup: Setup, target: Target) -> dict[str, NDArray[np.float64]]:
    """Latencies in ms, by what was going on when the requests were due."""
    requests = setup.requests(target, 200_000)
    plan = Plan(target.host, target.port, 16, WAIT_S + EVERY_S * SWAPS, warmup_s=5.0, rate=RATE, poisson=True)
    command = [sys.executable, "-m", "benchmarks.promoter", str(setup.home), str(SWAPS), str(WAIT_S), str(EVERY_S)]
    with child.running(command, setup.places.load, stdout=subprocess.PIPE) as promoter:
        assert promoter.stdout is not None
        assert promoter.stdout.readline() == b"ready\n"
        recorded = driver.drive(plan, requests, setup.places.load)
        moments = [(float(began), float(ended)) for began, ended in map(bytes.split, promoter.stdout)]
    assert len(moments) == SWAPS
    status = np.frombuffer(recorded.status, dtype=np.uint16)
    assert (status == GOOD).all(), f"requests failed: {np.unique(status[status != GOOD], return_counts=True)}"
    due, latency = np.frombuffer(recorded.started) + recorded.zero, np.frombuffer(recorded.latency) * 1e3
    spans = {
        QUIET: [(began - LOOK_S, began) for began, _ in moments],
        "while a promotion is written": moments,
        f"in the {LOOK_S:g} s after it, in which the service changes models": [
            (end, end + LOOK_S) for _, end in moments
        ],
    }
    return {
        name: latency[np.logical_or.reduce([(due >= since) & (due < until) for since, until in each])]
        for name, each in spans.items()
    }


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
