"""Facts about engines that compute features over history: for ``fraudml doctor``."""

from __future__ import annotations

import shutil
import socket
import time
from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from fraudml.decisions.servers import ServerFacts, Trial, Trouble
from fraudml.errors import MissingExtra

SPARK_PORT = 7077
# engine -> (extra, package)
PACKAGES = {
    "spark": ("spark", "pyspark"),
    "snowflake": ("snowflake", "snowflake-connector-python"),
    "bigquery": ("bigquery", "google-cloud-bigquery"),
}


def duckdb_facts() -> ServerFacts:
    """DuckDB in this process."""
    import duckdb

    started = time.perf_counter()
    with duckdb.connect() as connection:
        connection.execute("SELECT 1").fetchall()
    took_ms = (time.perf_counter() - started) * 1e3
    return ServerFacts(place="in this process", product="DuckDB", version=duckdb.__version__, latency_ms=took_ms)


def engine_facts(url: str, timeout_s: float) -> ServerFacts | Trouble:
    """Another engine as far as can be told without starting it: its client, and whether its server listens.

    A query would start a cluster or a warehouse, and cost minutes or money. Raises ``MissingExtra``.
    """
    scheme = url.partition(":")[0].lower()
    if scheme not in PACKAGES:
        return Trouble(f"{scheme!r} is no engine that fraudml knows", "write spark://, snowflake:// or bigquery://")
    extra, package = PACKAGES[scheme]
    try:
        found = version(package)
    except PackageNotFoundError:
        raise MissingExtra(extra) from None
    host, took_ms = "", 0.0
    if scheme == "spark":
        if shutil.which("java") is None:
            return Trouble("Spark needs Java, which is not on the PATH", "install a Java 17 runtime")
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if host:
            started = time.perf_counter()
            try:
                socket.create_connection((parts.hostname or "", parts.port or SPARK_PORT), timeout_s).close()
            except (OSError, ValueError) as error:
                return Trouble(f"nobody listens at {host}: {error}", "start the Spark master, or correct the URL")
            took_ms = (time.perf_counter() - started) * 1e3
    what = "reach it" if host else "load its client"
    return ServerFacts(
        place=host or "in this process", product=package, version=found, latency_ms=took_ms, trials=(Trial(what),)
    )
