"""The scoring API under load, beside what people usually put around such a model.

Each server runs on one core and the load on another, in interleaved rounds; medians count. fraudml does the whole job:
checks the API key and the fields, computes 24 window features, scores, and commits the decision before it answers. The
baselines get the finished feature vector, compute nothing and record nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import baselines, common, state_size
from benchmarks.baselines import BASELINES
from benchmarks.serving_setup import ENTITIES, EXACT, HISTORY_DAYS, RESOLUTION, Setup, prepare
from fraudml.cli.bench import child, minutes
from fraudml.cli.bench.command import MOST_PER_S, measure
from fraudml.cli.bench.latency import short
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.requests import Requests
from fraudml.cli.bench.results import Figures
from fraudml.cli.bench.server import Target

CONNECTIONS = (16, 64)
ALONE = 1  # connections at which only fraudml is measured: how long does one transaction take?
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
WARMUP_S = 0.5
OPEN_RATE = 1_200.0
OPEN_SHARES = (0.5, 0.8)  # of what the closed loop took
OPEN_SECONDS = float(os.environ.get("BENCH_OPEN_SECONDS", "30"))  # 600 for a soak
PARTS = ("compare", "open", "batch", "durability", "state")
CHOSEN = {name.strip() for name in os.environ.get("BENCH_PARTS", ",".join(PARTS)).split(",")}
PARTIAL = set(PARTS) != CHOSEN or RESOLUTION != EXACT  # then RESULTS.md keeps what it has
BATCH = 10_000
OURS = "**fraudml: features, key, idempotency, a decision that survives `kill -9`**"
USAGE = ["errors", "CPU", "load CPU", "MiB"]
COLUMNS = ["requests/s", "ratio", "p50 ms", "p95 ms", "p99 ms", "p99.9 ms", *USAGE]


def run() -> str:
    """The section of RESULTS.md: the parts that ``BENCH_PARTS`` names, all by default."""
    parts: dict[str, Callable[[Setup], str]] = {
        "compare": compare,
        "open": open_loops,
        "batch": batches,
        "durability": durability,
        "state": lambda setup: state_size.run(ROUNDS),
    }
    if unknown := CHOSEN - set(parts):
        sys.exit(f"BENCH_PARTS: no part {', '.join(sorted(unknown))}; there are: {', '.join(parts)}")
    if "compare" in CHOSEN:
        for requirements in {baseline.requirements for baseline in BASELINES}:
            baselines.environment(requirements)  # installing would disturb what is measured
    with common.workspace() as place, ExitStack() as stack:
        setup = prepare(Path(place))
        stack.enter_context(child.on(setup.places.load))
        return "\n\n".join(part(setup) for name, part in parts.items() if name in CHOSEN)


def compare(setup: Setup) -> str:
    """Closed loops, every server in every round."""
    found: dict[tuple[str, int], list[Figures]] = {}
    names = [OURS, *(baseline.name for baseline in BASELINES)]
    for _ in range(ROUNDS):
        for name in names:
            for figures in _one_round(setup, name):
                found.setdefault((name, figures.connections), []).append(figures)
    told = (
        f"Closed loops of {SECONDS:g} s, medians of {ROUNDS} interleaved rounds, {len(setup.vectors[0])} features. "
        f"{_where(setup)} fraudml starts with {setup.events:,} transactions of the last {HISTORY_DAYS} days, and each "
        f"request asks for one of {ENTITIES:,} customers and terminals, few of them often. Every baseline was seen to "
        "give the model's scores (to 1e-5)."
    )
    tables = []
    for connections in CONNECTIONS:
        first = _median(found[BASELINES[0].name, connections])
        rows = [_row(name, _median(found[name, connections]), first) for name in names]
        tables.append(f"{connections} connections:\n\n{common.table(['server', *COLUMNS], rows)}")
    alone = _median(found[OURS, ALONE])
    tables.append(f"One connection:\n\n{common.table(['server', *COLUMNS], [_row(OURS, alone, None)])}")
    notes = "\n".join(f"- {baseline.name}: {baseline.note}" for baseline in BASELINES)
    return "\n\n".join([told, *tables, _legend(alone), f"How the baselines are set up:\n\n{notes}"])


def _legend(figures: Figures) -> str:
    memory = f" MiB: peak {figures.server.memory} of all its processes." if figures.server is not None else ""
    return (
        "Latency: good answers and those that never came; blank where fewer than ten lie beyond. CPU: of the server's "
        "core; load CPU: of the load's, near 100 % the load is what limits (an open loop waits actively)." + memory
    )


def _one_round(setup: Setup, name: str) -> list[Figures]:
    with ExitStack() as stack:
        if name == OURS:
            target = stack.enter_context(setup.fraudml())
            return [_closed(setup, target, connections) for connections in (ALONE, *CONNECTIONS)]
        baseline = next(each for each in BASELINES if each.name == name)
        requests = baseline.requests(setup.declared.feature_set.input_names, setup.vectors)
        target = stack.enter_context(setup.baseline(baseline, requests))
        return [_closed(setup, target, connections, requests) for connections in CONNECTIONS]


def _closed(setup: Setup, target: Target, connections: int, requests: Requests | None = None) -> Figures:
    """One closed loop; on fraudml without ``requests``: a repeated id would be answered from the log."""
    plan = Plan(target.host, target.port, connections, SECONDS, WARMUP_S)
    requests = requests or setup.requests(target, round(MOST_PER_S * plan.whole_s))
    figures, _ = measure(target, plan, requests, setup.places)
    print(f"{requests.path}, {connections}: {figures.throughput_per_s:,.0f}/s {figures.errors}", flush=True)
    return figures


def _row(name: str, figures: Figures, base: Figures | None) -> list[str]:
    times = [short(figures.latency_ms[each]) for each in ("p50", "p95", "p99", "p99.9")]
    rate = figures.throughput_per_s
    ratio = f"{rate / max(base.throughput_per_s, 1e-9):.1f} x" if base is not None else ""
    return [name, f"{rate:,.0f}", ratio, *times, *_usage(figures)]


def _usage(figures: Figures) -> list[str]:
    used = figures.server
    cpu, memory = ("", "") if used is None else (f"{used.cpu_percent:.0f} %", f"{used.peak_mib:,.0f}")
    return [f"{sum(figures.errors.values()):,}", cpu, f"{figures.load_cpu_percent:.0f} %", memory]


def _median(rounds: Sequence[Figures]) -> Figures:
    """The round of median throughput, whole: figures of different rounds do not belong together."""
    return sorted(rounds, key=lambda each: each.throughput_per_s)[len(rounds) // 2]


def open_loops(setup: Setup) -> str:
    """Latency at fixed arrival rates, from the intended send times, and whether memory stays flat."""
    with setup.fraudml() as target:
        most = _closed(setup, target, max(CONNECTIONS)).throughput_per_s
    loads = [(OPEN_RATE, OPEN_SECONDS), *((round(most * share), 5 * SECONDS) for share in OPEN_SHARES)]
    rows, told = [], []
    for rate, seconds in loads:
        with setup.fraudml() as target:
            plan = Plan(target.host, target.port, 16, seconds, 2.0, rate=rate, poisson=True, seed=7)
            figures, _ = measure(target, plan, setup.requests(target, round(rate * plan.whole_s)), setup.places)
        times = [short(value) for value in figures.latency_ms.values()]
        rows.append([f"{rate:,.0f}", f"{seconds:g}", f"{figures.throughput_per_s:,.0f}", *times, *_usage(figures)])
        told.append(f"- {rate:,.0f}/s: {_failures(figures)}{_trend(figures)}")
        print(" | ".join(rows[-1]), flush=True)
    columns = ["arrivals/s", "seconds", "answers/s", *(f"{name} ms" for name in figures.latency_ms), *USAGE]
    shares = " and ".join(f"{share:.0%}" for share in OPEN_SHARES)
    return (
        f"fraudml, open loops with Poisson arrivals: {OPEN_RATE:,.0f}/s, and {shares} of the {most:,.0f}/s that a "
        f"closed loop over {max(CONNECTIONS)} connections took just before. Latency counts from the intended send "
        "time.\n\n" + "\n\n".join([common.table(columns, rows), "\n".join(told)])
    )


def _failures(figures: Figures) -> str:
    if not figures.errors:
        return "nothing failed."
    failed = ", ".join(f"{count:,} x {kind}" for kind, count in figures.errors.items())
    return f"failed: {failed}."


def _trend(figures: Figures) -> str:
    used = figures.server
    if used is None:
        return ""
    told = f" Memory: mean {used.first_third_mib:,.0f} MiB in the first third, {used.last_third_mib:,.0f} in the last."
    told += f" Stolen by the host of this virtual machine: {used.stolen_percent:.1f} % of the server's core"
    return f"{told}; {minutes.told(figures.minutes)}." if figures.minutes else f"{told}."


def durability(setup: Setup) -> str:
    """What it costs that a decision survives a power failure, not only the end of the process."""
    kinds, connections = ("process", "power"), min(CONNECTIONS)
    found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            with setup.fraudml(durability=kind) as target:
                found[kind].append(_closed(setup, target, connections))
    base = _median(found[kinds[0]])
    rows = [_row(f"`{kind}`", _median(found[kind]), base) for kind in kinds]
    table = common.table(["durability", *COLUMNS], rows)
    return f"What `FRAUDML_DURABILITY` costs, over {connections} connections:\n\n{table}"


def batches(setup: Setup) -> str:
    """Transactions a second in batches of the largest size, beside single requests in the same run."""
    seconds = 4 * SECONDS  # a request takes a good part of a second
    rows: list[list[str]] = []
    single = 0.0
    with setup.fraudml() as target:
        for connections, batch in ((64, 0), (1, BATCH), (4, BATCH)):
            plan = Plan(target.host, target.port, connections, seconds, WARMUP_S, drain_s=60.0)
            figures, _ = measure(target, plan, setup.requests(target, 100_000, batch), setup.places)
            single = single or figures.transactions_per_s
            what = f"batches of {batch:,}" if batch else "one at a time"
            row = [f"{what}, {connections} connection{'s' * (connections > 1)}", f"{figures.transactions_per_s:,.0f}"]
            row += [f"{figures.transactions_per_s / max(single, 1e-9):.1f} x", short(figures.latency_ms["p50"])]
            rows.append([*row, *_usage(figures)])
            print(" | ".join(rows[-1]), flush=True)
    return f"Batches:\n\n{common.table(['fraudml', 'transactions/s', 'ratio', 'p50 ms', *USAGE], rows)}"


def _where(setup: Setup) -> str:
    if setup.places.server is None:
        return "Nothing was pinned: this machine has one core, or its system cannot pin."
    return "The server was pinned to one core, the load to the others."
