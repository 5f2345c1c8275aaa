"""What a load found, as figures, as a table, as a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.cli import output
from fraudml.cli.bench import minutes
from fraudml.cli.bench.latency import MILLISECONDS, PERCENTILES, latencies, measured, percentiles, short
from fraudml.cli.bench.load import MOST_CONNECTIONS, Plan
from fraudml.cli.bench.minutes import Minute
from fraudml.cli.bench.record import GOOD, NO_ANSWER, Recorded
from fraudml.cli.bench.usage import Sampler, Usage

SHED = 503
BUSY_LOAD = 90.0  # per cent of a core from which on the load itself may be what limits
STOLEN = 1.0  # per cent from which on the host is worth a word


class Figures(msgspec.Struct, frozen=True):
    """One load. Without the warm-up: ``requests`` are those that began in the measured ``seconds``, and
    ``throughput_per_s`` counts good answers that arrived in them.

    ``latency_ms`` is over the ``timed`` ones of them: the good answers, and those that never came, with the time they
    were waited for; a quick refusal must not make a server look fast. A percentile beyond which fewer than
    ``latency.TAIL`` of them lie is ``None``. ``errors`` are counted by kind: a status, a reason, ``degraded``,
    ``failed items``; ``shed`` is how many answers said 503, which are among them. ``load_cpu_percent`` is the load's
    own use of its core. ``minutes`` are there for a load of two or more. ``profiled``: a profiler slowed the server
    down.
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
    minutes: Sequence[Minute] = ()
    profiled: bool = False


def figures(
    plan: Plan, recorded: Recorded, batch: int = 0, sampler: Sampler | None = None, *, profiled: bool = False
) -> Figures:
    """The figures of one load; ``batch``: the transactions of a request, 0 when it holds just one."""
    begin = recorded.zero + plan.warmup_s
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
        requests=int(measured(plan, recorded).sum()),
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
        server=sampler.between(begin, begin + plan.seconds) if sampler is not None else None,
        minutes=minutes.by_minute(plan, recorded, sampler),
        profiled=profiled,
    )


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
            if used.stolen_percent >= STOLEN:
                told = (
                    f"{used.stolen_percent:.1f} % of the time the host of this virtual machine kept the server's core"
                )
                output.remarks.print(f"{_name(load)}: {told}; answers waited then", style="yellow", markup=False)
        if load.minutes:
            output.results.print(f"{_name(load)}: {minutes.told(load.minutes)}", markup=False)


def _row(load: Figures) -> list[str]:
    rates = [f"{load.throughput_per_s:,.0f}"]
    if load.batch:
        rates.append(f"{load.transactions_per_s:,.0f}")
    times = [short(value) for value in load.latency_ms.values()]
    used = load.server
    cpu, memory = (f"{used.cpu_percent:.0f} %", f"{used.peak_mib:,.0f}") if used is not None else ("", "")
    errors = f"{sum(load.errors.values()):,}"
    return [_name(load), *rates, *times, errors, cpu, f"{load.load_cpu_percent:.0f} %", memory]


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
