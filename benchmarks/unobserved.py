"""fraudml without what observes it: no metrics, no lines for requests, no chain of hashes. To measure what they cost.

``python -m benchmarks.unobserved serve ...`` is ``fraudml serve ...``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.cli.main import run
from fraudml.decisions.record import Decision
from fraudml.monitoring.metrics import Metrics

COUNTED = ("answered", "stage", "batch", "request", "shed", "rejected", "cache", "recent", "labels", "reported")
append: Callable[..., dict[str, Decision]] = SqliteDecisionLog.append


def nothing(*given: Any, **named: Any) -> None:
    """Count nothing."""


def unchained(log: SqliteDecisionLog, decisions: Sequence[Decision], *, chained: bool = True) -> dict[str, Decision]:
    """Store without a link."""
    return append(log, decisions, chained=False)


if __name__ == "__main__":
    for name in COUNTED:
        setattr(Metrics, name, nothing)
    SqliteDecisionLog.append = unchained  # type: ignore[method-assign]
    run()
