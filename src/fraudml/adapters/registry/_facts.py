"""Facts about a model registry, without MLflow's client, which takes seconds to load: for ``fraudml doctor``."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from fraudml.decisions.servers import ServerFacts, Trial, Trouble
from fraudml.models.registry import CHAMPION

REFUSED = (401, 403)


def facts(url: str | None, home: Path, model_name: str, timeout_s: float) -> ServerFacts | Trouble | None:
    """What is there; ``details["champion"]`` is the version that serves, where there is one. ``None``: no registry has
    been made yet, or it is a store that can only be asked by MLflow itself."""
    if url is None:
        return _file(home.absolute() / "registry.db", model_name, timeout_s)
    if url.startswith("sqlite:///"):
        return _file(Path(url.removeprefix("sqlite:///")), model_name, timeout_s)
    if url.startswith(("http://", "https://")):
        return _server(url, model_name, timeout_s)
    return None


def _file(path: Path, model_name: str, timeout_s: float) -> ServerFacts | Trouble | None:
    if not path.exists():
        return None
    query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
    started = time.perf_counter()
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout_s / 2)) as connection:
            row = connection.execute(query, (model_name, CHAMPION)).fetchone()
    except sqlite3.Error as error:
        return Trouble(f"{path} cannot be read: {error}", "check its permissions, or restore it from a backup")
    took_ms = (time.perf_counter() - started) * 1e3
    return _facts(str(path), "MLflow's store", sqlite3.sqlite_version, took_ms, None if row is None else str(row[0]))


def _server(url: str, model_name: str, timeout_s: float) -> ServerFacts | Trouble:
    parts = urlsplit(url)
    credentials, at, host = parts.netloc.rpartition("@")
    base = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
    headers = {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"} if at else {}
    started = time.perf_counter()
    try:
        version = _get(f"{base}/version", headers, timeout_s).decode(errors="replace").strip()
        took_ms = (time.perf_counter() - started) * 1e3
        asked = f"name={quote(model_name)}&alias={CHAMPION}"
        champion = _champion(f"{base}/api/2.0/mlflow/registered-models/alias?{asked}", headers, timeout_s)
    except HTTPError as error:
        error.close()
        if error.code in REFUSED:
            do = "its credentials are MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, which this check does not use"
            return Trouble(f"{base} asks for credentials (status {error.code})", do)
        return Trouble(f"{base} answers with status {error.code}", "is it an MLflow server? see its log")
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Trouble(f"{base} cannot be reached: {reason}", "start it, or correct FRAUDML_REGISTRY_URL")
    return _facts(base, "MLflow", version, took_ms, champion)


def _champion(url: str, headers: dict[str, str], timeout_s: float) -> str | None:
    try:
        told: Any = json.loads(_get(url, headers, timeout_s))
        return str(told["model_version"]["version"])
    except HTTPError as error:
        if error.code in REFUSED:
            raise
        error.close()
        return None  # no such model, or no such alias
    except (ValueError, KeyError, TypeError):
        return None


def _get(url: str, headers: dict[str, str], timeout_s: float) -> bytes:
    with urlopen(Request(url, headers=headers), timeout=timeout_s) as answer:  # noqa: S310 - http or https
        return bytes(answer.read(1_000_000))


def _facts(place: str, product: str, version: str, took_ms: float, champion: str | None) -> ServerFacts:
    details = {} if champion is None else {"champion": champion}
    return ServerFacts(
        place=place, product=product, version=version, latency_ms=took_ms, trials=(Trial("read it"),), details=details
    )
