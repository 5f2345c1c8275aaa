"""What PostgreSQL refuses becomes one error that says what to do. No text of it holds a value or a password."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fraudml.errors import DecisionLogError

_ADVICE: tuple[tuple[tuple[type[psycopg.Error], ...], str], ...] = (
    ((errors.InvalidPassword, errors.InvalidAuthorizationSpecification), "check user and password"),
    ((errors.InvalidCatalogName,), "create the database, or correct its name"),
    ((errors.TooManyConnections,), "raise max_connections, or lower FRAUDML_DB_POOL_SIZE"),
    ((errors.DiskFull,), "the server's disk is full: make room there"),
    ((errors.InsufficientPrivilege,), "grant the role what docs/howto/run-on-postgresql.md lists"),
    ((errors.ReadOnlySqlTransaction,), "this server takes no writes: name the primary in FRAUDML_DATABASE_URL"),
    ((errors.UndefinedTable, errors.UndefinedColumn), "run: fraudml db upgrade"),
    ((errors.LockNotAvailable,), "something holds the table for long, such as a backup: try again when it has ended"),
    ((errors.QueryCanceled,), "the server is slow, or something holds a lock"),
    ((errors.UniqueViolation, errors.ForeignKeyViolation), "what is in the log is never changed"),
    ((errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow), "the server is stopping or starting"),
    ((psycopg.OperationalError, psycopg.InterfaceError), "check that PostgreSQL runs there and can be reached"),
)


@contextmanager
def failures(doing: str) -> Iterator[None]:
    """Errors of the driver, and of values that cannot be read or written, become DecisionLogErrors that say what was
    being done."""
    try:
        yield
    except (SQLAlchemyError, psycopg.Error, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        raise DecisionLogError(f"the decision log failed while {doing}: {_told(cause)}") from cause
    except (ValueError, OverflowError, TypeError, struct.error) as error:
        raise DecisionLogError(
            f"the decision log failed while {doing}: there is a value that this version of fraudml cannot read or "
            f"write ({error}); if a newer version wrote it, start that one"
        ) from error


def _told(error: BaseException) -> str:
    """One line: the server's message without its details, which can hold values."""
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    said = said or " ".join(str(error).split()) or type(error).__name__
    for kinds, advice in _ADVICE:
        if isinstance(error, kinds):
            return f"{said}; {advice}"
    return said
