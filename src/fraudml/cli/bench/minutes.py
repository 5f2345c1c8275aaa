"""A long load minute by minute: is a slow tail the server's, or of a few bad moments of the machine?"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from fraudml.cli.bench.latency import MILLISECONDS, percentiles, short, timed
from fraudml.cli.bench.load import Plan
from fraudml.cli.bench.record import Recorded
from fraudml.cli.bench.usage import Sampler

MINUTE_S = 60.0
FEWEST = 2  # below, the whole load says as much


class Minute(msgspec.Struct, frozen=True):
    """A minute of a load, as the whole in :class:`fraudml.cli.bench.results.Figures`; ``stolen_percent`` as in
    :class:`fraudml.cli.bench.usage.Usage`, ``None`` where the server was not watched."""

    requests: int
    latency_ms: dict[str, float | None]
    stolen_percent: float | None


def by_minute(plan: Plan, recorded: Recorded, sampler: Sampler | None) -> list[Minute]:
    """The whole minutes after the warm-up, of a load of two or more."""
    count = int(plan.seconds // MINUTE_S)
    if count < FEWEST:
        return []
    started, latency = np.frombuffer(recorded.started), np.frombuffer(recorded.latency)
    counted = timed(plan, recorded)
    found = []
    for begin in (plan.warmup_s + MINUTE_S * np.arange(count)).tolist():
        inside = counted & (started >= begin) & (started < begin + MINUTE_S)
        zero = recorded.zero + begin
        used = sampler.between(zero, zero + MINUTE_S) if sampler is not None else None
        took = latency[inside] * MILLISECONDS
        found.append(Minute(len(took), percentiles(took), None if used is None else used.stolen_percent))
    return found


def told(minutes: Sequence[Minute]) -> str:
    """A sentence about them.

    >>> calm, bad = ({"p50": 1.0, "p99": p99, "p99.9": None} for p99 in (4.0, 90.0))
    >>> told([Minute(600, calm, 0.0), Minute(600, calm, 0.5), Minute(600, bad, 8.0)])
    'by minute, median and worst: p50 1.00 and 1.00 ms, p99 4.00 and 90.0 ms, stolen by the host 0.5 and 8.0 %'
    """
    parts = []
    for name in minutes[0].latency_ms:
        values = [value for minute in minutes if (value := minute.latency_ms[name]) is not None]
        if values:
            parts.append(f"{name} {short(float(np.median(values)))} and {short(max(values))} ms")
    stolen = [minute.stolen_percent for minute in minutes if minute.stolen_percent is not None]
    if stolen:
        parts.append(f"stolen by the host {np.median(stolen):.1f} and {max(stolen):.1f} %")
    return f"by minute, median and worst: {', '.join(parts)}"
