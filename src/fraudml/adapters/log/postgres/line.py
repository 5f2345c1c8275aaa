"""A connection for one kind of call, replaced when it broke."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from psycopg import OperationalError
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

from fraudml.adapters.log.postgres.failures import failures
from fraudml.adapters.log.postgres.session import NoAnswer, Session
from fraudml.adapters.log.postgres.statements import BY_INDEX
from fraudml.errors import DecisionLogError

# The server gives up first, so that mostly the connection can be used again.
SERVER_SHARE = 0.9


class Patience:
    """How long calls wait, ``timeout_ms`` each, and whether it is of any use to ask now.

    When a server hangs each call of a batch would wait in vain; after the first one the others fail at once, for as
    long as that one waited.
    """

    def __init__(self, timeout_ms: int) -> None:
        self.timeout_ms = timeout_ms
        self.timeout_s = timeout_ms / 1_000
        self._not_before = 0.0

    def check(self) -> None:
        """Raise ``NoAnswer`` right after a call that got none."""
        if time.monotonic() < self._not_before:
            raise NoAnswer("no answer a moment ago")

    def hangs(self) -> None:
        """A call got no answer."""
        self._not_before = time.monotonic() + self.timeout_s


class Line:
    """One connection of the pool, used by one thread at a time and by the process that made it.

    ``prepare`` is called with each new connection before its first use. A connection is opened in a thread of its own,
    because looking up a name or connecting can take longer than a call may; a call waits for it as long as for an
    answer, and a later one finds it open.
    """

    def __init__(self, engine: sa.Engine, patience: Patience, prepare: Callable[[Any], None] = lambda driver: None):
        self._engine = engine
        self._patience = patience
        self._prepare = prepare
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._opening: Future[tuple[Any, Session]] | None = None
        self._closed = False
        with failures("opening"):
            self._open: tuple[Any, Session] | None = self._connect()

    @contextmanager
    def turn(self, doing: str) -> Iterator[Session]:
        """The session, for this thread alone. Failures are ``DecisionLogError``."""
        if os.getpid() != self._process:
            raise DecisionLogError("the decision log was opened by the process that forked this one: open it here")
        if not self._lock.acquire(timeout=self._patience.timeout_s):
            raise DecisionLogError(
                f"the decision log failed while {doing}: another call took longer than {self._patience.timeout_ms} ms; "
                "try again, or raise FRAUDML_LOG_TIMEOUT_MS"
            )
        try:
            with failures(doing):
                session = self._ready()
                session.begin()
                try:
                    yield session
                except NoAnswer:
                    self._patience.hangs()
                    raise
                except ReadOnlySqlTransaction:  # no primary any more; a fresh connection may find the one that is
                    self._drop()
                    raise
                finally:
                    if session.broken or session.driver.pgconn.transaction_status != TransactionStatus.IDLE:
                        self._drop()
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection, and one that is being opened."""
        with self._lock:
            self._closed = True
            self._drop()
            if self._opening is not None:
                self._opening.add_done_callback(_discard)

    def _ready(self) -> Session:
        if self._open is not None and self._open[1].lost:
            self._drop()  # a fresh one serves this very call
        if self._open is None:
            self._patience.check()
            self._open = self._reopened()
        return self._open[1]

    def _reopened(self) -> tuple[Any, Session]:
        if self._closed:
            raise OperationalError("it is closed")
        if self._opening is None:
            self._opening = Future()
            threading.Thread(target=self._reopen, args=(self._opening,), name="fraudml-connect", daemon=True).start()
        opening = self._opening
        if not wait([opening], self._patience.timeout_s).done:
            self._patience.hangs()
            raise NoAnswer(f"no connection within {self._patience.timeout_ms} ms")
        self._opening = None
        return opening.result()

    def _reopen(self, opening: Future[tuple[Any, Session]]) -> None:
        try:
            opening.set_result(self._connect())
        except BaseException as error:  # raised where the result is waited for
            opening.set_exception(error)

    def _connect(self) -> tuple[Any, Session]:
        pooled = self._engine.raw_connection()
        try:
            driver: Any = pooled.driver_connection
            driver.autocommit = True
            driver.patience_s = self._patience.timeout_s
            within = f"SET statement_timeout = {max(1, round(self._patience.timeout_ms * SERVER_SHARE))}"
            # one plan for all calls: planning takes longer than executing
            driver.execute(f"{within}; SET plan_cache_mode = force_generic_plan; {BY_INDEX.format('SESSION')}")
            self._prepare(driver)
            return pooled, Session(driver, self._patience.timeout_s)
        except BaseException:
            pooled.invalidate()
            raise

    def _drop(self) -> None:
        """Not back into the pool: it has settings and locks of ours."""
        if self._open is not None:
            opened, self._open = self._open, None
            _end(*opened)


def _end(pooled: Any, session: Session) -> None:
    session.close()
    pooled.invalidate()


def _discard(opening: Future[tuple[Any, Session]]) -> None:
    if opening.exception() is None:
        _end(*opening.result())
