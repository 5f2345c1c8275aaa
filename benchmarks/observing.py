"""What metrics, a line for each request and the chain of hashes cost a service, together.

Two services run, one with all on, with metrics read once a second as Prometheus might, and one with all off
(:mod:`benchmarks.unobserved`). They share a core and are loaded from the other one, never both at once, in short turns:
what the machine does beside them changes slower than that. The decision log itself stays on in both: it is the product.
"""

from __future__ import annotations

import statistics
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import common
from benchmarks.serving_setup import Setup, prepare
from fraudml.cli.bench import child
from fraudml.cli.bench.command import MOST_PER_S, measure
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.results import Figures
from fraudml.cli.bench.server import Target

CONNECTIONS = (16, 64)
TURNS = 24
TURN_S = 2.0
WARMUP_S = 0.3  # of each turn
SCRAPE_S = 1.0
OFF, ON = "all off", "all on"


def run() -> str:
    """The section of RESULTS.md."""
    rows = []
    with common.workspace() as place:
        setup = prepare(Path(place))
        unobserved = setup.fraudml(("-m", "benchmarks.unobserved"))
        with child.on(setup.places.load), unobserved as off, setup.fraudml(request_log="all") as on:
            for connections in CONNECTIONS:
                _turn(setup, off, connections)  # the first one of each finds nothing warm
                _turn(setup, on, connections)
                rows.append(_row(connections, [_pair(setup, off, on, connections, turn) for turn in range(TURNS)]))
    columns = ["connections", "all off, requests/s", "all on, requests/s", "cost", "p99 off, ms", "p99 on, ms"]
    return (
        f"Closed loops of {TURN_S:g} s in turns, {TURNS} of each; cost: the mean of the turns' own ratios with its "
        "95 % interval; the rest are medians. On: all metrics, read once a second; a line in the log for each request "
        "(`FRAUDML_REQUEST_LOG=all`), written to a file; the chain of hashes. Off: none of these. Both commit each "
        f"decision before it is answered.\n\n{common.table(columns, rows)}"
    )


def _pair(setup: Setup, off: Target, on: Target, connections: int, turn: int) -> tuple[Figures, Figures]:
    """A turn of each; neither is always the first."""
    if turn % 2:
        second = _turn(setup, on, connections, read=True)
        return _turn(setup, off, connections), second
    first = _turn(setup, off, connections)
    return first, _turn(setup, on, connections, read=True)


def _turn(setup: Setup, target: Target, connections: int, *, read: bool = False) -> Figures:
    plan = Plan(target.host, target.port, connections, TURN_S, WARMUP_S)
    requests = setup.requests(target, round(MOST_PER_S * plan.whole_s))
    with scraped(target, read):
        figures, _ = measure(target, plan, requests, setup.places)
    print(f"{'on' if read else 'off'}, {connections}: {figures.throughput_per_s:,.0f}/s {figures.errors}", flush=True)
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
