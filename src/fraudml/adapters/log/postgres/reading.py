"""How a stream is read: by which joins, and from which pieces of tables that are cut into pieces by time.

Whole streams of such tables open all pieces. A read that is limited asks the plain table of ids first, of which times
its rows are, and opens the pieces of these times only. Otherwise who reads a log part by part would read all of it for
each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fraudml.adapters.log.postgres import statements

RANGES = 8  # of times, at most: a few rows of long ago do not open all pieces in between


def planned(driver: Any, text: str, after: int | None, limit: int | None) -> tuple[str, Sequence[int] | None]:
    """The statement and its parameters; how tables are joined is set for the transaction. ``limit`` is for statements
    in :data:`statements.PARTS`."""
    if limit is None or after is None:
        if text is not statements.IDS:
            driver.execute(_way(driver, after))
        return text, None if after is None else (after,)
    driver.execute(statements.BY_INDEX.format("LOCAL"))
    in_pieces = driver.execute(statements.CUT).fetchone()[0]
    days = driver.execute(statements.PARTS[text], (after, limit)).fetchall() if in_pieces else []
    if not days:
        return f"{text} LIMIT %s", (after, limit)
    if sum(rows for _, _, rows, _ in days) >= statements.FEW:
        driver.execute(statements.BY_HASH)
    times = _ranges([(first, last) for first, last, _, _ in days if first is not None])
    return statements.part(text, times), (after, max(arrival for *_, arrival in days))


def _way(driver: Any, after: int | None) -> str:
    """The setting by which a whole stream's tables are joined."""
    in_pieces = after is not None and driver.execute(statements.CUT).fetchone()[0]
    if in_pieces and driver.execute(statements.MANY, {"after": after}).fetchone()[0]:
        return statements.BY_HASH
    return statements.BY_INDEX.format("LOCAL")


def _ranges(days: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The first and last times of days, in order, as few ranges: apart where the largest gaps are.

    >>> _ranges([(1, 2), (5, 6)]), _ranges([(n * n, n * n + 1) for n in range(10)])[:3]
    ([(1, 2), (5, 6)], [(0, 5), (9, 10), (16, 17)])
    """
    if not days:
        return []
    by_gap = sorted(range(1, len(days)), key=lambda at: days[at][0] - days[at - 1][1])
    return [(days[a][0], days[b - 1][1]) for a, b in pairwise([0, *sorted(by_gap[-(RANGES - 1) :]), len(days)])]
