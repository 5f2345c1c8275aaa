"""Facts about engines that compute over history, without starting them: for ``fraudml doctor``.

A query would start a cluster or a warehouse, and cost minutes or money. So the URL is read, the client looked for, and
of a Spark cluster it is asked whether its address listens.
"""

from __future__ import annotations

import shutil
import time
from importlib.metadata import PackageNotFoundError, version

from fraudml.adapters.connections import bigquery, snowflake, spark
from fraudml.decisions.servers import ServerFacts, Trial, Trouble
from fraudml.errors import ConfigError, MissingExtra, OfflineStoreError


def facts(url: str, setting: str, timeout_s: float) -> ServerFacts | Trouble:
    """What is there of Spark, Snowflake or BigQuery; raises ``ConfigError`` and ``MissingExtra``."""
    match url.partition(":")[0].lower():
        case "snowflake":
            found = _installed("snowflake", "snowflake-connector-python")
            told = snowflake.parameters(url, setting)
            place = f"{told.get('account') or told.get('connection_name')}/{told.get('database')}/{told.get('schema')}"
            return _client("Snowflake's client", found, place)
        case "bigquery":
            found = _installed("bigquery", "google-cloud-bigquery")
            return _client("BigQuery's client", found, "/".join(bigquery.parameters(url, setting)[:2]))
        case "spark" | "sc" | "k8s" | "yarn":
            return _spark(url, timeout_s)
    raise ConfigError(f"{setting} names no engine that fraudml knows: write spark:, snowflake: or bigquery:")


def _spark(url: str, timeout_s: float) -> ServerFacts | Trouble:
    found = _installed("spark", "pyspark")
    master = spark.master_of(url)
    if not master.startswith("sc://") and shutil.which("java") is None:
        return Trouble("Spark needs Java, which is not on the PATH", "install a Java 17 runtime")
    started = time.perf_counter()
    try:
        spark.check_reachable(master, timeout_s)
    except (OfflineStoreError, ValueError) as error:
        return Trouble(str(error), "start the cluster's master, or correct the URL")
    took_ms = (time.perf_counter() - started) * 1e3
    listens = "://" in master
    return ServerFacts(
        place=master.rpartition("@")[2],
        product="Spark's client",
        version=found,
        latency_ms=took_ms,
        trials=(Trial("reach it"),) if listens else (),
    )


def _client(product: str, found: str, place: str) -> ServerFacts:
    told = f"{place} (not asked: that would start it)"
    return ServerFacts(place=told, product=product, version=found, latency_ms=0.0)


def _installed(extra: str, package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        raise MissingExtra(extra) from None
