"""fraudml that can be told to observe nothing, while it runs: no metrics, no lines for requests, no chain of hashes.

``python -m benchmarks.unobserved serve ...`` is ``fraudml serve ...``. SIGUSR1 switches all of that off, SIGUSR2 on
again. So what it costs is measured in one process: two of the same program differ by up to a tenth, whatever they do.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.cli.main import run
from fraudml.decisions.record import Decision
from fraudml.monitoring.metrics import Metrics
from fraudml.service.requests import Requests

COUNTED = ("answered", "stage", "batch", "request", "shed", "rejected", "cache", "recent", "labels", "reported")
OFF, ON = signal.SIGUSR1, signal.SIGUSR2
append: Callable[..., dict[str, Decision]] = SqliteDecisionLog.append
finish: Callable[..., None] = Requests.finish


def nothing(*given: Any, **named: Any) -> None:
    """Count nothing."""


def unchained(log: SqliteDecisionLog, decisions: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
    """Store without a link."""
    return append(log, decisions, chained=False)


def untold(requests: Requests, method: str, route: str, facts: Mapping[str, Any], status: int, seconds: float) -> None:
    """Say something only of a request that failed."""
    if status >= 400:
        finish(requests, method, route, facts, status, seconds)


def main() -> None:
    """fraudml, with a handler for each signal."""
    switched: list[tuple[type, str, Any]] = [(Metrics, name, nothing) for name in COUNTED]
    switched += [(SqliteDecisionLog, "append", unchained), (Requests, "finish", untold)]
    methods = {OFF: switched, ON: [(owner, name, getattr(owner, name)) for owner, name, _ in switched]}

    def switch(number: int, frame: FrameType | None) -> None:
        for owner, name, method in methods[signal.Signals(number)]:
            setattr(owner, name, method)

    for number in methods:
        signal.signal(number, switch)
    run()


if __name__ == "__main__":
    main()
