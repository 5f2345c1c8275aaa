"""What a load found, as figures, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.cli import output
from fraudml.cli.bench.load import MOST_CONNECTIONS, Plan
from fraudml.cli.bench.record import GOOD, NO_ANSWER, Recorded
from fraudml.cli.bench.usage import Usage

SHED = 503
PERCENTILES = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
TAIL = 10  # a percentile beyond which fewer requests lie is not told: it would be the time of a single one
ALWAYS = ("p50", "max")
BUSY_LOAD = 90.0  # per cent of a core from which on the load itself may be what limits
MILLISECONDS = 1_000.0


class Figures(msgspec.Struct, frozen=True):
    """One load. Without the warm-up: ``requests`` are those that began in the measured ``seconds``, and
    ``throughput_per_s`` counts good answers that arrived in them.

    ``latency_ms`` is over the ``timed`` ones of them: the good answers, and those that never came, with the time they
    were waited for; a quick refusal must not make a server look fast. A percentile beyond which fewer than
    :data:`TAIL` of them lie is ``None``. ``errors`` are counted by kind: a status, a reason, ``degraded``,
    ``failed items``; ``shed`` is how many answers said 503, which are among them. ``load_cpu_percent`` is the load's
    own use of its core. ``profiled``: a profiler slowed the server down.
    """

    connections: int
    rate: float | None
    batch: int
    seconds: float
    requests: int
    timed: int
    throughput_per_s: float
    transactions_per_s: float
    latency_ms: dict[str, float | None]
    errors: dict[str, int]
    shed: int
    samples: dict[str, str]
    most_connections: int
    most_waiting: int
    load_cpu_percent: float
    server: Usage | None = None
    profiled: bool = False


def latencies(plan: Plan, recorded: Recorded) -> NDArray[np.float64]:
    """Seconds of each request that began after the warm-up and got a good answer, or none."""
    status = np.frombuffer(recorded.status, dtype=np.uint16)
    timed = _measured(plan, recorded) & ((status == GOOD) | (status == NO_ANSWER))
    found: NDArray[np.float64] = np.frombuffer(recorded.latency)[timed]
    return found


def figures(
    plan: Plan, recorded: Recorded, batch: int = 0, server: Usage | None = None, *, profiled: bool = False
) -> Figures:
    """The figures of one load; ``batch``: the transactions of a request, 0 when it holds just one."""
    started, latency = np.frombuffer(recorded.started), np.frombuffer(recorded.latency)
    status = np.frombuffer(recorded.status, dtype=np.uint16)
    ended = started + latency
    good = (status == GOOD) & (ended >= plan.warmup_s) & (ended < plan.whole_s)
    throughput = float(good.sum()) / plan.seconds
    took = latencies(plan, recorded) * MILLISECONDS
    answered = Counter(status.tolist())
    return Figures(
        connections=plan.connections,
        rate=plan.rate,
        batch=batch,
        seconds=plan.seconds,
        requests=int(_measured(plan, recorded).sum()),
        timed=len(took),
        throughput_per_s=throughput,
        transactions_per_s=throughput * max(batch, 1),
        latency_ms=percentiles(took),
        errors=_errors(answered, recorded),
        shed=answered[SHED],
        samples=recorded.samples,
        most_connections=recorded.most_connections,
        most_waiting=recorded.most_waiting,
        load_cpu_percent=recorded.cpu_s / recorded.seconds * 100,
        server=server,
        profiled=profiled,
    )


def percentiles(took: NDArray[np.float64]) -> dict[str, float | None]:
    """Each of :data:`PERCENTILES` that so many values can tell.

    >>> percentiles(np.arange(1, 1_001))
    {'p50': 500.5, 'p95': 950.05, 'p99': 990.01, 'p99.9': None, 'max': 1000.0}
    """
    found: dict[str, float | None] = dict.fromkeys(PERCENTILES)
    for name, share in PERCENTILES.items():
        beyond = round(len(took) * (100 - share) / 100, 6)
        if len(took) and (beyond >= TAIL or name in ALWAYS):
            found[name] = float(np.percentile(took, share))
    return found


def _measured(plan: Plan, recorded: Recorded) -> NDArray[np.bool_]:
    started = np.frombuffer(recorded.started)
    return (started >= plan.warmup_s) & (started < plan.whole_s)


def _errors(answered: Counter[int], recorded: Recorded) -> dict[str, int]:
    """Whatever went wrong, in the warm-up too."""
    found = {str(status): count for status, count in sorted(answered.items()) if status not in (GOOD, NO_ANSWER)}
    found |= recorded.errors
    counts = {"degraded": recorded.degraded, "failed items": recorded.failed_items}
    return found | {name: count for name, count in counts.items() if count}


def show(loads: Sequence[Figures]) -> None:
    """A table, and below it what deserves a sentence."""
    rows = [_row(load) for load in loads]
    columns = ["load", "requests/s", *(f"{name} ms" for name in PERCENTILES), "errors", "CPU", "load CPU", "MiB"]
    if any(load.batch for load in loads):
        columns.insert(2, "transactions/s")
    output.table(columns, rows)
    for load in loads:
        if load.profiled:
            told = "measured under the profiler, which slows the service down: take the figures from a run without it"
            output.remarks.print(f"{_name(load)}: {told}", style="yellow", markup=False)
        for kind, count in load.errors.items():
            sample = load.samples.get(kind, "")
            output.remarks.print(f"{_name(load)}: {count:,} x {kind} {sample}", style="yellow", markup=False)
        if load.rate and load.most_connections >= MOST_CONNECTIONS:
            told = f"up to {load.most_waiting:,} requests waited here for one of {load.most_connections} connections"
            output.remarks.print(f"{_name(load)}: {told}", style="yellow", markup=False)
        if load.rate is None and load.load_cpu_percent > BUSY_LOAD:
            told = f"the load itself used {load.load_cpu_percent:.0f} % of its core and may be what limits"
            output.remarks.print(f"{_name(load)}: {told}", style="yellow", markup=False)
        if load.server is not None:
            used = load.server
            told = (
                f"server memory ({used.memory}) {used.start_mib:,.0f} MiB at the start, {used.end_mib:,.0f} at the "
                f"end, {used.peak_mib:,.0f} at its peak; mean of the first third {used.first_third_mib:,.0f}, "
                f"of the last {used.last_third_mib:,.0f}"
            )
            output.results.print(f"{_name(load)}: {told}", markup=False)


def _row(load: Figures) -> list[str]:
    rates = [f"{load.throughput_per_s:,.0f}"]
    if load.batch:
        rates.append(f"{load.transactions_per_s:,.0f}")
    times = [short(value) for value in load.latency_ms.values()]
    used = load.server
    cpu, memory = (f"{used.cpu_percent:.0f} %", f"{used.peak_mib:,.0f}") if used is not None else ("", "")
    errors = f"{sum(load.errors.values()):,}"
    return [_name(load), *rates, *times, errors, cpu, f"{load.load_cpu_percent:.0f} %", memory]


def short(value: float | None) -> str:
    """Three digits or more, as a table has room for them; nothing for what is not known.

    >>> short(0.1234), short(12.34), short(1234.5), short(None)
    ('0.12', '12.3', '1,234', '')
    """
    if value is None:
        return ""
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _name(load: Figures) -> str:
    name = f"open, {load.rate:,g}/s" if load.rate else f"closed, {load.connections}"
    return f"{name}, profiled" if load.profiled else name


def plot(loads: Sequence[tuple[Figures, NDArray[np.float64]]], path: Path) -> None:
    """Latency at each percentile, as far out as there are requests; ``loads`` have their latencies in seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for load, seconds in loads:
        if len(seconds):
            ordered = np.sort(seconds) * MILLISECONDS
            rank = np.unique(np.geomspace(1, len(ordered), 600).astype(int))  # from the slowest one down
            axes.plot(len(ordered) / rank, ordered[-rank], label=_name(load))
    axes.set(xscale="log", yscale="log", xlabel="percentile", ylabel="latency, ms", title="fraudml bench serve")
    ticks = [1, 2, 10, 100, 1_000, 10_000, 100_000]
    axes.set_xticks(ticks, ["0", "50", "90", "99", "99.9", "99.99", "99.999"])
    axes.set_xlim(1, max([10.0, *(float(len(seconds)) for _, seconds in loads)]))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
