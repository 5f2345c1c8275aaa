"""Who may append: session locks of PostgreSQL, held by the very connection that appends.

A process that claims the log alone holds lock 0 exclusively; those that share it hold it together, and each the lock of
its number. PostgreSQL frees the locks of a connection that ended only after its transaction: whoever gets a lock knows
that the one before it can append nothing more. So there is nothing to check when appending. But a connection can be
lost while its process lives, and somebody else may have had the number before it comes back: each claim raises the
number's epoch in ``writers``, and a process whose epoch is not the last one never appends again.
"""

from __future__ import annotations

from typing import Any

from psycopg import errors

from fraudml.decisions.log import WRITERS
from fraudml.errors import ConfigError, DecisionLogError

ALL = 0  # the lock of all numbers; that of a number is the number and one
# The process before may have been killed a moment ago: until its server process notices, its locks are held.
WAIT_MS = 2_000
TAKE_S = 10.0  # at most, for all of it
_KEY = "hashtext('fraudml ' || current_schema())"  # other tables, other locks
_SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
# The connection that was lost on this side may be alive on the other, with its locks and perhaps with a statement.
_END_SESSION = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
_TAKE_NUMBER = (
    "INSERT INTO writers (number, epoch, held) VALUES (%s, 1, true) ON CONFLICT (number) "
    "DO UPDATE SET epoch = writers.epoch + 1, held = true, claimed_at = now() RETURNING epoch"
)


class Claim:
    """What this process claimed, if anything. ``driver``: psycopg's connection, the one that appends."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._shared = False
        self._epoch = 0
        self._session: Any = None
        self.number: int | None = None

    def take(self, driver: Any, *, shared: bool) -> int:
        """Become one that appends; its number. Raises ``ConfigError`` when others stand against it."""
        if self.number is not None:
            if shared is not self._shared:
                raise ConfigError("this process has claimed the decision log already, otherwise")
            return self.number
        patience, driver.patience_s = driver.patience_s, TAKE_S
        try:
            self.number = self._take(driver, shared=shared)
        finally:
            driver.patience_s = patience
        return self.number

    def _take(self, driver: Any, *, shared: bool) -> int:
        if not _lock(driver, ALL, shared=shared, wait_ms=WAIT_MS):
            raise ConfigError(
                f"another fraudml process serves from {self._place} already"
                + (", alone" if shared else "")
                + "; stop it, or use another FRAUDML_DATABASE_URL"
            )
        if shared:
            number = next((each for each in _numbers(driver) if _lock(driver, each + 1, shared=False)), None)
        else:
            _patiently(driver, "UPDATE writers SET epoch = epoch + 1, held = false")  # all that appended before
            number = _numbers(driver)[0]
        if number is None:
            driver.execute(f"SELECT pg_advisory_unlock_shared({_KEY}, %s)", (ALL,))
            raise ConfigError(f"{WRITERS} processes append to {self._place} already: that is the most")
        (self._epoch,) = _patiently(driver, _TAKE_NUMBER, (number,)).fetchone()
        self._shared, self._session = shared, driver.execute(_SESSION).fetchone()
        return number

    def renew(self, driver: Any) -> None:
        """Hold the same number by a new connection; ``DecisionLogError`` when that cannot be."""
        if self.number is None:
            return
        driver.execute(_END_SESSION, self._session)
        wait_ms = round(driver.patience_s * 500)
        if not _lock(driver, ALL, shared=self._shared, wait_ms=wait_ms) or (
            self._shared and not _lock(driver, self.number + 1, shared=False, wait_ms=wait_ms)
        ):
            raise DecisionLogError(f"the right to append to {self._place} is held by another connection")
        (epoch,) = driver.execute("SELECT epoch FROM writers WHERE number = %s", (self.number,)).fetchone() or (0,)
        if epoch != self._epoch:
            raise DecisionLogError(
                f"another process has appended to {self._place} in the place of this one while its connection was "
                "lost: restart this one, so that it knows what was decided"
            )
        self._session = driver.execute(_SESSION).fetchone()

    def release(self, driver: Any) -> None:
        """Say that the number is free, so that others take it first."""
        if self.number is not None:
            gone = (self.number, self._epoch)
            driver.execute("UPDATE writers SET held = false WHERE number = %s AND epoch = %s", gone)
            self.number = None


def _patiently(driver: Any, query: str, parameters: tuple[int, ...] = ()) -> Any:
    """Execute what no decision waits for: a disk that is slow for a moment is no reason not to start."""
    with driver.transaction():
        driver.execute(f"SET LOCAL statement_timeout = {round(TAKE_S * 1_000)}")
        return driver.execute(query, parameters)


def _numbers(driver: Any) -> list[int]:
    """All numbers; first those that belong to nobody for sure. The others' owners may be about to come back.

    The one that was claimed longest ago comes first: who lost its claim while it could not reach the log goes on
    deciding with its number, into its journal, until it is restarted. Nobody else may take arrivals like those then.
    """
    rows = driver.execute("SELECT number FROM writers ORDER BY held, claimed_at").fetchall()
    known = [number for (number,) in rows]
    return [*(number for number in range(WRITERS) if number not in known), *known]


def _lock(driver: Any, lock: int, *, shared: bool, wait_ms: int = 0) -> bool:
    """Get a lock that ends with the session; whether it was free, or became so."""
    kind = "_shared" if shared else ""
    if not wait_ms:
        return bool(driver.execute(f"SELECT pg_try_advisory_lock{kind}({_KEY}, %s)", (lock,)).fetchone()[0])
    try:
        with driver.transaction():
            driver.execute(f"SET LOCAL lock_timeout = {wait_ms}; SET LOCAL statement_timeout = {2 * wait_ms}")
            driver.execute(f"SELECT pg_advisory_lock{kind}({_KEY}, %s)", (lock,))
    except errors.LockNotAvailable:
        return False
    return True
