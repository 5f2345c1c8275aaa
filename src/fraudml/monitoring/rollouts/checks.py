"""What a check says, and the checks of model calls: failures and slowness."""

from __future__ import annotations

import math
from typing import ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.monitoring.rollouts.eprocess import FailureRates
from fraudml.monitoring.rollouts.kept import Kept, Kinds
from fraudml.monitoring.rollouts.rows import Rows

# Above its limit a challenger is at fault in any case. How sure we are that the champion has not the same trouble may
# be less: at 1 in 100 of alpha, an even split would need ten failures where five do.
SHARED_TROUBLE = 0.05
FEWEST_BAD_CALLS = 2  # one bad call is an incident, whatever the arithmetic says


class CheckStatus(msgspec.Struct, frozen=True):
    """Where a check stands. ``n``: the challenger's decisions (or costly labels of both arms) it rests on.

    ``evidence``: how far it is on the way to a breach: 0 none, 1 a breach; as of the last time the check looked.
    """

    name: str
    champion: float | None
    challenger: float | None
    limit: float
    n: int
    evidence: float
    breached: bool
    words: str


class Breach(msgspec.Struct, frozen=True):
    """A limit is exceeded, with the stated certainty. ``arrival``: of the row at which that became clear; ``reason``:
    one sentence for people; ``status``: the check's figures then."""

    check: str
    arrival: int
    reason: str
    status: CheckStatus


def figure(value: float) -> float | None:
    """A number for JSON: None for NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def percent(value: float) -> str:
    """A share for people.

    >>> percent(0.0123), percent(float("nan"))
    ('1.23 %', 'unknown')
    """
    return f"{100 * value:.3g} %" if math.isfinite(value) else "unknown"


class CallCheck(Kept):
    """The share of model calls that fail, or are slow: above what is tolerated and above the champion's.

    ``what``: the end of "0.1 % of its model calls ...".
    """

    KEPT: ClassVar[Kinds] = {"breach": Breach | None, "_rates": None, "_evidence": float}

    def __init__(self, name: str, what: str, tolerated: float, alpha: float) -> None:
        self.breach: Breach | None = None
        self._name, self._what, self._tolerated = name, what, tolerated
        self._need = math.log(1 / alpha)
        self._rates = FailureRates(tolerated)
        self._evidence = 0.0

    def observe(self, rows: Rows, bad: NDArray[np.bool_]) -> None:
        """Count decisions; ``bad`` ``[n]``: the call failed or was slow."""
        seen = self._rates.add(rows.challenger, bad, rows.batch)
        if self.breach is not None or not len(seen.place):
            return
        progress = np.minimum(seen.absolute / self._need, seen.relative / math.log(1 / SHARED_TROUBLE))
        progress = np.clip(np.minimum(progress, seen.bad[:, 1] / FEWEST_BAD_CALLS), 0.0, 1.0)
        self._evidence = float(progress[-1])
        if progress.max() >= 1:
            self._evidence = 1.0
            first = int(np.argmax(progress))
            status = self._status(seen.rows[first], seen.calls[first], seen.bad[first])
            self.breach = Breach(self._name, int(rows.arrival[seen.place[first]]), f"{status.words}.", status)

    def status(self) -> CheckStatus:
        """The figures of all whole blocks so far."""
        return self._status(self._rates.rows, self._rates.calls, self._rates.bad)

    def _status(self, rows: NDArray[np.int64], calls: NDArray[np.float64], bad: NDArray[np.float64]) -> CheckStatus:
        with np.errstate(invalid="ignore"):
            champion, challenger = bad / calls
        return CheckStatus(
            name=self._name,
            champion=figure(champion),
            challenger=figure(challenger),
            limit=self._tolerated,
            n=int(rows[1]),
            evidence=self._evidence,
            breached=self._evidence >= 1,
            words=f"{percent(challenger)} of the challenger's model calls {self._what}, {percent(champion)} of the "
            f"champion's; {percent(self._tolerated)} is tolerated",
        )
