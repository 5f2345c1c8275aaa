"""What metrics, a line for each request and the chain of hashes cost a service, together.

One core serves, another loads it, in turns: all on, with metrics read once a second as Prometheus might, and all off
(:mod:`benchmarks.unobserved`). The decision log itself stays on in both: it is the product. Two processes of the same
program differ by up to a tenth here, whatever they do, so each turn has fresh ones and there are many turns.
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
TURNS = 16
SECONDS = 2.0
WARMUP_S = 0.5
SCRAPE_S = 1.0
ON, OFF = "all on", "all off"


def run() -> str:
    """The section of RESULTS.md."""
    found: dict[tuple[str, int], list[Figures]] = {}
    with common.workspace() as place:
        setup = prepare(Path(place))
        with child.on(setup.places.load):
            for turn in range(TURNS):
                for name in (ON, OFF) if turn % 2 else (OFF, ON):  # neither is always the second
                    for connections, figures in _load(setup, name):
                        found.setdefault((name, connections), []).append(figures)
    rows = [_row(found, connections) for connections in CONNECTIONS]
    columns = ["connections", "all off, requests/s", "all on, requests/s", "cost", "p99 off, ms", "p99 on, ms"]
    return (
        f"Closed loops of {SECONDS:g} s, {TURNS} turns of a fresh service each; cost: the mean of the turns' own "
        "ratios with its 95 % interval; the rest are medians. On: all metrics, read once a second; a line in the log "
        "for each request (`FRAUDML_REQUEST_LOG=all`), written to a file; the chain of hashes. Off: none of these. "
        f"Both commit each decision before it is answered.\n\n{common.table(columns, rows)}"
    )


def _load(setup: Setup, name: str) -> Iterator[tuple[int, Figures]]:
    program = ("-m", "fraudml") if name == ON else ("-m", "benchmarks.unobserved")
    settings = {"request_log": "all"} if name == ON else {}
    with setup.fraudml(program, **settings) as target:
        for connections in CONNECTIONS:
            plan = Plan(target.host, target.port, connections, SECONDS, WARMUP_S)
            requests = setup.requests(target, round(MOST_PER_S * plan.whole_s))
            with scraped(target, name == ON):
                figures, _ = measure(target, plan, requests, setup.places)
            print(f"{name}, {connections}: {figures.throughput_per_s:,.0f}/s {figures.errors}", flush=True)
            yield connections, figures


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


def _row(found: dict[tuple[str, int], list[Figures]], connections: int) -> list[str]:
    off, on = found[OFF, connections], found[ON, connections]
    costs = [1 - b.throughput_per_s / a.throughput_per_s for a, b in zip(off, on, strict=True)]
    mean, spread = statistics.mean(costs), 1.96 * statistics.stdev(costs) / len(costs) ** 0.5
    rates = [f"{statistics.median(each.throughput_per_s for each in figures):,.0f}" for figures in (off, on)]
    tails = [f"{statistics.median(each.latency_ms['p99'] or 0 for each in figures):.1f}" for figures in (off, on)]
    return [str(connections), *rates, f"{mean:.1%} ({mean - spread:.1%} to {mean + spread:.1%})", *tails]
