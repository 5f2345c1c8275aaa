"""What metrics, a line for each request and the chain of hashes cost a service, together.

One core serves, another loads it, in short turns: all on, with metrics read once a second as Prometheus might, and all
off, in the same process (:mod:`benchmarks.unobserved`). The decision log itself stays on: it is the product.
"""

from __future__ import annotations

import os
import statistics
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import common, unobserved
from benchmarks.serving_setup import Setup, prepare
from fraudml.cli.bench import child
from fraudml.cli.bench.command import MOST_PER_S, measure
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.results import Figures
from fraudml.cli.bench.server import Target

CONNECTIONS = (16, 64)
TURNS = 24
SECONDS = 2.0
WARMUP_S = 0.5
SCRAPE_S = 1.0


def run() -> str:
    """The section of RESULTS.md."""
    rows = []
    with common.workspace() as place:
        setup = prepare(Path(place))
        program = ("-m", "benchmarks.unobserved")
        with child.on(setup.places.load), setup.fraudml(program, request_log="all") as target:
            for connections in CONNECTIONS:
                _turn(setup, target, connections, observed=True)  # it finds nothing warm
                rows.append(_row(connections, [_pair(setup, target, connections, turn) for turn in range(TURNS)]))
    columns = ["connections", "all off, requests/s", "all on, requests/s", "cost", "p99 off, ms", "p99 on, ms"]
    return (
        f"Closed loops of {SECONDS:g} s, {TURNS} turns of each in one process; cost: the mean of the turns' own ratios "
        "with its 95 % interval; the rest are medians. On: all metrics, read once a second; a line in the log for "
        "each request (`FRAUDML_REQUEST_LOG=all`), written to a file; the chain of hashes. Off: none of these. Each "
        f"decision is committed before it is answered.\n\n{common.table(columns, rows)}"
    )


def _pair(setup: Setup, target: Target, connections: int, turn: int) -> tuple[Figures, Figures]:
    """Off and on; neither is always the first."""
    order = (True, False) if turn % 2 else (False, True)
    found = {observed: _turn(setup, target, connections, observed=observed) for observed in order}
    return found[False], found[True]


def _turn(setup: Setup, target: Target, connections: int, *, observed: bool) -> Figures:
    assert target.pid is not None
    os.kill(target.pid, unobserved.ON if observed else unobserved.OFF)
    plan = Plan(target.host, target.port, connections, SECONDS, WARMUP_S)
    requests = setup.requests(target, round(MOST_PER_S * plan.whole_s))
    with scraped(target, observed):
        figures, _ = measure(target, plan, requests, setup.places)
    name = "on" if observed else "off"
    print(f"{name}, {connections}: {figures.throughput_per_s:,.0f}/s {figures.errors}", flush=True)
    return figures


@contextmanager
def scraped(target: Target, wanted: bool) -> Iterator[None]:
    """Its metrics are read once a second meanwhile."""
    ending = threading.Event()

    def read() -> None:
        while not ending.wait(SCRAPE_S):
            with urllib.request.urlopen(f"http://{target.host}:{target.port}/metrics") as answer:
                answer.read()

    thread = threading.Thread(target=read)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        ending.set()
        if wanted:
            thread.join()


def _row(connections: int, pairs: list[tuple[Figures, Figures]]) -> list[str]:
    costs = [1 - on.throughput_per_s / off.throughput_per_s for off, on in pairs]
    mean, spread = statistics.mean(costs), 1.96 * statistics.stdev(costs) / len(costs) ** 0.5
    off, on = zip(*pairs, strict=True)
    rates = [f"{statistics.median(each.throughput_per_s for each in figures):,.0f}" for figures in (off, on)]
    tails = [f"{statistics.median(each.latency_ms['p99'] or 0 for each in figures):.1f}" for figures in (off, on)]
    return [str(connections), *rates, f"{mean:.1%} ({mean - spread:.1%} to {mean + spread:.1%})", *tails]
