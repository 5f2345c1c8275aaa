"""What holds for every test: Hypothesis profiles, one thread per worker, and the skip policy."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.servers.bigquery import BigQueryServer
    from tests.support.servers.snowflake import SnowflakeServer
    from tests.support.servers.timescale import TimescaleServer

# Two xdist workers that each start one thread per core only slow each other down.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it starts in the background ignore Ctrl-C, and so would every command of the tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# For tests that load ONNX Runtime before fraudml does.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A developer's own settings must not reach the tests; what only tests read may stay.
for name in [name for name in os.environ if name.startswith("FRAUDML_")]:
    if name != "FRAUDML_HANDBOOK" and not name.startswith("FRAUDML_TEST_"):
        del os.environ[name]

# `ci` finds the same examples on every machine; `thorough` looks for new ones, before a release say.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=2_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

ALLOWED_SKIPS = tuple(
    line.strip()
    for line in (Path(__file__).parent / "allowed_skips.txt").read_text(encoding="utf-8").splitlines()
    if line.strip() and not line.startswith("#")
)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as this process's tests."""
    from tests.support.servers import postgres

    with postgres.server_url() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of a fresh, empty PostgreSQL database."""
    from tests.support.servers import postgres

    return postgres.new_database(postgres_server)


@pytest.fixture(scope="session")
def timescale_server() -> Iterator[TimescaleServer]:
    """A TimescaleDB that lives as long as this process's tests."""
    from tests.support.servers import timescale

    with timescale.server() as made:
        yield made


@pytest.fixture
def timescale_url(timescale_server: TimescaleServer) -> str:
    """The URL of an empty database with TimescaleDB. Close its connections: the server has one session for all."""
    return timescale_server.new_database()


@pytest.fixture(scope="session")
def snowflake_server() -> Iterator[SnowflakeServer]:
    """An emulator of Snowflake that lives as long as this process's tests."""
    from tests.support.servers import snowflake

    with snowflake.server() as made:
        yield made


@pytest.fixture
def snowflake_url(snowflake_server: SnowflakeServer) -> str:
    """The URL of a fresh, empty schema of the emulator."""
    return snowflake_server.new_database()


@pytest.fixture
def bigquery_server() -> Iterator[BigQueryServer]:
    """An emulator of BigQuery with an empty data set."""
    from tests.support.servers import bigquery

    server = bigquery.BigQueryServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of a Redis server that lives as long as this process's tests."""
    from tests.support.servers import redis

    with redis.server_url() as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis database."""
    import redis

    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@pytest.fixture(scope="session")
def kafka_servers() -> Iterator[str]:
    """The address of a Kafka broker that lives as long as this process's tests."""
    from tests.support.servers import kafka

    with kafka.server() as servers:
        yield servers


@pytest.fixture
def fresh_kafka() -> Iterator[str]:
    """The address of a Kafka broker without topics."""
    from tests.support.servers.kafka import KafkaServer

    made = KafkaServer()
    yield made.servers
    made.close()


# Half of what these take is Java becoming fast.
_ON_ONE_SPARK = re.compile(
    r"(integration|parity)/test_spark\.py::|(conformance/test_offline_store|parity/test_handbook)\.py::.*\[spark"
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as ``--dist loadfile`` does, but all that works on ``tests.support.spark`` in one process."""
    from xdist.scheduler import LoadFileScheduling

    class BySpark(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "spark" if _ON_ONE_SPARK.search(nodeid) else str(super()._split_scope(nodeid))

    return BySpark(config, log) if config.getvalue("dist") == "loadfile" else None


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip whose reason is not on the written list into a failure.

    It is done where the report is made, so that it also holds in xdist's worker processes, which do not
    hand collection skips on.
    """
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nThis reason is not in tests/allowed_skips.txt, so the skip is a failure."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report
