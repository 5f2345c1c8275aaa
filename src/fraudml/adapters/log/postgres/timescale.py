"""TimescaleDB, where the extension is in the database: the tables cut into pieces by time, older ones compressed, the
oldest removed, and the figures per hour kept up to date.

:func:`arrange` is for ``fraudml db upgrade``, after the migrations. It may be run again, after settings changed too: it
changes what differs, and goes on where it was interrupted. Without the extension nothing here is needed, and the same
tables and views are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from fraudml.adapters.log.postgres import timescale_sql as text
from fraudml.adapters.log.postgres.failures import failures
from fraudml.adapters.log.postgres.long_work import long_work
from fraudml.adapters.log.postgres.timescale_sql import DAY_US, HOUR_US
from fraudml.errors import DecisionLogError

OLDEST = (2, 18)  # of TimescaleDB: the first one with the names used here
LOCK_MS = 5_000
RECENT_US = 2 * DAY_US  # how long after an upgrade older processes may have gone on
_COMPRESSION = ("policy_compression", "policy_columnstore")


class Policies(NamedTuple):
    """What the settings say, in days: 0 compresses never, ``None`` keeps for ever."""

    compress_after_days: int = 7
    retain_days: int | None = None

    @property
    def compress_after_us(self) -> int | None:
        """``None`` for never."""
        return self.compress_after_days * DAY_US or None

    @property
    def retain_us(self) -> int | None:
        """``None`` for ever."""
        return None if self.retain_days is None else self.retain_days * DAY_US

    @property
    def refresh_from_us(self) -> int | None:
        """How far back figures are brought up to date: not where decisions were removed, whose figures stay."""
        return None if self.retain_us is None else max(self.retain_us - 2 * DAY_US, 3 * HOUR_US)


class Job(NamedTuple):
    """A job of TimescaleDB's."""

    number: int
    procedure: str
    of: str | None
    config: dict[str, Any]
    scheduled: bool


class Timescale(NamedTuple):
    """TimescaleDB in a database: ``schema`` is where its functions are, quoted. ``columnar``: the hypertables that may
    be compressed."""

    version: str
    schema: str
    licence: str
    hypertables: frozenset[str]
    aggregates: frozenset[str]
    jobs: tuple[Job, ...]
    columnar: frozenset[str] = frozenset()

    def of(self, table: str, *procedures: str) -> Job | None:
        """The job of these procedures for a table."""
        return next((job for job in self.jobs if job.of == table and job.procedure in procedures), None)

    @property
    def retain(self) -> tuple[Job, ...]:
        """The jobs that remove what is too old."""
        return tuple(job for job in self.jobs if job.procedure == text.JOB)

    def retains(self, wanted: Policies) -> bool:
        """Whether just what is too old is removed by itself: nothing, where it is kept for ever."""
        limits = [] if wanted.retain_us is None else [(wanted.retain_us, True)]
        return [(job.config.get("retain_us"), job.scheduled) for job in self.retain] == limits

    def differences(self, wanted: Policies) -> list[str]:
        """What :func:`arrange` would change, for people."""
        found = [f"{name} is no hypertable" for name in text.PIECES if name not in self.hypertables]
        found += [f"{name} is not there" for name in text.KEPT if name not in self.aggregates]
        if found:
            return found
        found = [f"{name} has no columnstore" for name in text.PIECES if name not in self.columnar]
        for table in text.PIECES:
            job = self.of(table, *_COMPRESSION)
            if _after(job) != wanted.compress_after_us:
                found.append(f"{table} is compressed {_days(_after(job))}, not {_days(wanted.compress_after_us)}")
        retained = [job.config.get("retain_us") for job in self.retain] or [None]
        if retained != [wanted.retain_us]:
            kept = " and ".join(_kept(each) for each in retained)
            found.append(f"decisions are kept {kept}, not {_kept(wanted.retain_us)}")
        for name in text.KEPT:
            job = self.of(name, "policy_refresh_continuous_aggregate")
            if job is None or job.config.get("start_offset") != wanted.refresh_from_us:
                found.append(f"{name} is not refreshed as these settings need")
        stopped = [job for job in self.jobs if not job.scheduled]
        return found + [f"the job {job.number} ({job.procedure}) of {job.of or 'all'} is stopped" for job in stopped]


def available(engine: sa.Engine) -> str | None:
    """The version that could be installed in the database, if any."""
    with failures("looking for TimescaleDB"), engine.connect() as connection:
        found = connection.exec_driver_sql(text.AVAILABLE).scalar()
    return None if found is None else str(found)


def state(engine: sa.Engine) -> Timescale | None:
    """What is there; ``None`` without the extension."""
    with failures("looking for TimescaleDB"), engine.connect() as connection:
        found = connection.exec_driver_sql(text.EXTENSION).one_or_none()
        if found is None:
            return None
        version, schema, licence = found
        tables = {name: bool(columnar) for name, columnar in connection.exec_driver_sql(text.HYPERTABLES)}
        aggregates = frozenset(connection.exec_driver_sql(text.AGGREGATES).scalars())
        jobs = tuple(
            Job(number, procedure, of, dict(config or {}), scheduled)
            for number, procedure, of, config, scheduled in connection.exec_driver_sql(text.JOBS)
        )
    columnar = frozenset(name for name, set_up in tables.items() if set_up)
    return Timescale(version, schema, licence or "", frozenset(tables), aggregates, jobs, columnar)


def arrange(engine: sa.Engine, place: str, wanted: Policies, say: Callable[[str], None] = lambda line: None) -> None:
    """Make the database what ``wanted`` says; ``say`` is told each change. Nothing without the extension.

    A table with rows is cut into pieces under a lock, for about as long as it takes to copy it: services keep decisions
    in their journals meanwhile. Raises ``DecisionLogError``, also for a TimescaleDB that is too old or lacks the
    community licence.
    """
    found = state(engine)
    if found is None:
        return
    check(found, place)
    with long_work(engine, "arranging TimescaleDB") as driver:
        driver.execute(f"SET lock_timeout = {LOCK_MS}")
        do = _Work(driver)
        schema = do.one("SELECT quote_ident(current_schema())")
        do.names = {"x": found.schema, "s": schema}
        do(text.NOW)
        for table in ("transactions", "decisions"):
            if table not in found.hypertables:
                _cut(do, table, say)
        _fill(do, found, say)
        if "label_changes" not in found.hypertables:
            _count_labels(do)
        for table in text.PIECES:
            _compress(do, table, found, wanted, say)
        for name in text.KEPT:
            _keep(do, name, found, wanted, say)
        for view in text.VIEWS:
            do(view)
        _retain(do, found, wanted, say)


class _Work:
    """Statements, each a transaction of its own unless inside of :meth:`together`."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.names: dict[str, str] = {}

    def __call__(self, statement: str, /, **values: object) -> Any:
        made = statement.format(**self.names) if self.names else statement
        return self._driver.execute(made, values or None)

    def one(self, statement: str, /, **values: object) -> Any:
        return self(statement, **values).fetchone()[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._driver.transaction():
            yield


def check(found: Timescale, place: str) -> None:
    """Raise ``DecisionLogError`` for one that cannot do what is needed."""
    numbers = tuple(map(int, re.findall(r"\d+", found.version)[:2]))
    if numbers < OLDEST:
        raise DecisionLogError(
            f"{place} has TimescaleDB {found.version}; fraudml needs 2.18 or newer: install it on the server, then run "
            "ALTER EXTENSION timescaledb UPDATE in a fresh session"
        )
    if found.licence != "timescale":
        raise DecisionLogError(
            f"TimescaleDB at {place} runs under its {found.licence or 'unknown'} licence, without compression, jobs "
            "and continuous aggregates: set timescaledb.license = 'timescale' in postgresql.conf, or use a database "
            "without the extension"
        )


def _cut(do: _Work, table: str, say: Callable[[str], None]) -> None:
    rows = do.one(f"SELECT EXISTS (SELECT FROM {table})")  # noqa: S608 - our own names
    if rows:
        size = do.one("SELECT pg_size_pretty(pg_total_relation_size(%(table)s::regclass))", table=table)
        say(f"{table} ({size}) is copied into pieces of a day; writers wait until it is done, or use their journals")
    with do.together():
        do(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        if table == "decisions":
            do(text.FILL, since=0)
        do(text.CUT, table=table, piece=text.PIECES[table])
        do(text.CLOCK, table=table)
    say(f"{table} is a hypertable")


def _fill(do: _Work, found: Timescale, say: Callable[[str], None]) -> None:
    """What processes of the release before wrote since: after an arrangement that got no further than the cut, which
    may be long ago, all of it."""
    interrupted = "decisions" in found.hypertables - found.columnar
    since = 0 if interrupted else do.one("SELECT {s}.fraudml_now_us()") - RECENT_US
    if filled := do(text.FILL, since=since).rowcount:
        say(f"{filled} decisions of an older fraudml got their amounts")


def _count_labels(do: _Work) -> None:
    with do.together():
        do(text.LABELS_STAND)
        do(text.CHANGES)
        do(text.CUT, table="label_changes", piece=text.PIECES["label_changes"])
        do(text.CLOCK, table="label_changes")
        do(text.COUNT)
        do(text.COUNTING)
        do(text.COUNTED)


def _compress(do: _Work, table: str, found: Timescale, wanted: Policies, say: Callable[[str], None]) -> None:
    there, after = found.of(table, *_COMPRESSION), wanted.compress_after_us
    if table not in found.columnar:  # cut a moment ago, or by a run that came no further
        segment, order = text.ORDER[table]
        do(text.COLUMNS.format(s="{s}", table=table, segment=segment, order=order))
    if _after(there) == after and (there is None or there.scheduled):
        return
    with do.together():
        do(text.NOT_COMPRESS, table=table)
        if after is not None:
            do(text.COMPRESS, table=table, after=after)
    say(f"{table} is compressed {_days(after)}")


def _keep(do: _Work, name: str, found: Timescale, wanted: Policies, say: Callable[[str], None]) -> None:
    if name not in found.aggregates:
        do(text.AGGREGATE[name])
        say(f"{name} is a continuous aggregate")
    there = found.of(name, "policy_refresh_continuous_aggregate")
    start = wanted.refresh_from_us
    if there is None or there.config.get("start_offset") != start or not there.scheduled:
        with do.together():
            do(text.NOT_REFRESH, view=name)
            do(text.REFRESH, view=name, start=start, end=HOUR_US)


def _retain(do: _Work, found: Timescale, wanted: Policies, say: Callable[[str], None]) -> None:
    do(text.RETAIN)
    if found.retains(wanted):
        return
    retain = wanted.retain_us
    with do.together():
        for job in found.retain:
            do(text.NOT_RETAINING, job=job.number)
        if retain is not None:
            do(text.RETAINING, retain=retain)
    say(f"decisions are kept {_kept(retain)}")


def _after(job: Job | None) -> int | None:
    found = None if job is None else job.config.get("compress_after")
    return None if found is None else int(found)


def _days(after: int | None) -> str:
    return "never" if after is None else f"after {after / DAY_US:g} days"


def _kept(retain: int | None) -> str:
    return "for ever" if retain is None else f"{retain / DAY_US:g} days"
