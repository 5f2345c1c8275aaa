"""A quiet MLflow client: nothing on the terminal, no telemetry, deadlines, and errors that are ours."""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fraudml.errors import FraudmlError, MissingExtra, RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_CAUSE = 300
SQLITE = "sqlite:///"

# What MLflow takes from nowhere but the environment; what the user has set stays. A library must not call home,
# an unreachable server must not keep a command waiting for minutes, and the terminal is not MLflow's.
_SWITCHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds without a byte
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def load_mlflow() -> None:
    """Import it, which takes seconds, with its switches set."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401


def open_client(url: str) -> MlflowClient:
    """A client of the server or store at a URL; raises RegistryError or MissingExtra when there can be none."""
    _check_file(url)
    load_mlflow()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is raised, too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow's own tables and migrations
            return MlflowClient(tracking_uri=url, registry_uri=url)
    except Exception as error:  # MLflow lets through what its drivers and Alembic raise
        raise failure(url, error) from error


def _check_file(url: str) -> None:
    """Raise RegistryError for a SQLite file that cannot be read: MLflow would try ten times, for more than a minute."""
    path = Path(url.removeprefix(SQLITE))
    if url.startswith(SQLITE) and path.exists():
        try:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise failure(url, error) from error


def create_store(path: Path) -> None:
    """Make MLflow's SQLite file where there is none; it appears with all its tables or not at all.

    MLflow creates its tables in dozens of steps and never recovers from being stopped in between, or from another
    process that does the same at the same time.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".registry-", ignore_cleanup_errors=True) as scratch:
            draft = Path(scratch) / path.name
            open_client(sqlite_url(draft))
            with suppress(FileExistsError):  # then another process was first
                os.link(draft, path)
    except OSError as error:
        raise failure(sqlite_url(path), error) from error


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, absolute path.

    >>> sqlite_url(Path("/data/registry.db"))
    'sqlite:////data/registry.db'
    """
    return f"{SQLITE}{path.as_posix()}"


def failure(url: str, error: Exception) -> FraudmlError:
    """One line for an error of MLflow or its drivers, without the credentials in the URL.

    >>> print(failure("http://me:secret@host/", ValueError("GET http://me:secret@host/api: no answer")))
    the model registry at http://host/ failed: GET http://host/api: no answer
    """
    if isinstance(error, ModuleNotFoundError):
        if error.name and error.name.startswith("psycopg"):
            return MissingExtra("postgres")
        return RegistryError(f"the model registry needs the Python package {error.name!r}: pip install {error.name}")
    credentials, at, _ = urlsplit(url).netloc.rpartition("@")
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if len(cause) > LONGEST_CAUSE:
        cause = f"{cause[:LONGEST_CAUSE]}..."
    text = f"the model registry at {url} failed: {cause}"
    return RegistryError(text.replace(credentials + at, "") if at else text)
