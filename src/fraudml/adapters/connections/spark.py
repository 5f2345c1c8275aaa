"""A session of Spark, on this machine or on a cluster, from a URL."""

from __future__ import annotations

import re
import socket
import sys
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fraudml.errors import ConfigError, MissingExtra, OfflineStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark import SparkConf
    from pyspark.sql import SparkSession

APP_NAME = "fraudml"
LOG_FILE = "spark.log"
REACHABLE_WITHIN_S = 5.0  # a connection to the cluster's address
EXECUTOR_WITHIN_S = 120.0  # the first task on a cluster: containers may have to start
LOCAL_PARTITIONS = 8  # of a shuffle on one machine; Spark joins those that turn out small
_FORMS = "spark:local[*], spark://host:7077, sc://host:15002, spark:yarn or k8s://https://host:6443"
# What results depend on, also on a cluster whose own defaults differ: overflow is an error, times are UTC.
_MEANING = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}


def master_of(url: str) -> str:
    """The master, or the address of a Spark Connect server, that a URL names; raises ``ConfigError`` for others.

    >>> [master_of(url) for url in ("spark:local[2]", "spark://host:7077", "spark:yarn", "yarn")]
    ['local[2]', 'spark://host:7077', 'yarn', 'yarn']
    """
    named = url if url.startswith("spark://") else url.removeprefix("spark:")
    if named.startswith(("local", "spark://", "sc://", "k8s://")) or named == "yarn":
        return named
    raise ConfigError(f"FRAUDML_OFFLINE_URL is no URL of Spark; write {_FORMS}")


def java_memory(limit: str) -> str:
    """A size such as ``4GB`` as Java wants it: whole megabytes, at least as many as Spark starts with.

    >>> java_memory("4GB"), java_memory("1.5 GiB"), java_memory("10MB")
    ('3814m', '1536m', '512m')
    """
    found = re.fullmatch(r"([0-9.]+) ?([KMGT])(I?)B", limit.upper())
    if found is None:
        raise ConfigError(f"{limit!r} is no size; write one such as 4GB")
    size = float(found[1]) * (1_024 if found[3] else 1_000) ** " KMGT".index(found[2])
    return f"{max(512, int(size / (1 << 20)))}m"


def session(url: str, scratch: Path, memory: str = "4GB", options: dict[str, str] | None = None) -> SparkSession:
    """This process's session of the Spark that ``url`` names; made on the first call.

    ``scratch``: a directory of this machine for Spark's log and what it spills. ``memory``: of Java, where it
    works in this machine (``spark:local``). ``options`` are further ones of Spark's own; a cluster's are read
    from its ``spark-defaults.conf``. Nothing is printed: what Spark has to say is in ``spark.log``.

    Raises ``MissingExtra`` without the package, ``ConfigError`` for a URL of something else, ``OfflineStoreError``
    when there is no Java, or when the cluster cannot be reached or gives no executor.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise MissingExtra("spark") from None
    master = master_of(url)
    scratch = scratch.resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    check_reachable(master)
    with _quiet():
        if master.startswith("sc://"):
            return _connect(SparkSession, master, options or {})
        running = SparkSession.getActiveSession()
        if running is None:
            running = _start(SparkSession, master, scratch, memory, options or {})
        elif running.sparkContext.master != master:
            raise ConfigError(f"this process works on {running.sparkContext.master} already, so not on {master}")
        for name, value in _MEANING.items():
            running.conf.set(name, value)
    return running


def _start(kind: type[SparkSession], master: str, scratch: Path, memory: str, options: dict[str, str]) -> SparkSession:
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException

    local = master.startswith("local")
    conf = SparkConf(loadDefaults=False)
    conf.setMaster(master).setAppName(APP_NAME)
    for name, value in (_common(scratch) | (_of_this_machine(scratch, memory) if local else {}) | options).items():
        conf.set(name, value)
    log = scratch / LOG_FILE
    try:
        # Java is started here, and not by Spark, since that would give it our standard output.
        context = SparkContext(conf=conf, gateway=_start_java(conf, log))
    except PySparkException:
        raise OfflineStoreError(_why_no_start(log)) from None
    except Exception as error:  # py4j's: the context failed in Java
        raise OfflineStoreError(f"Spark did not start on {master}: {_first_line(error)}; see {log}") from error
    context.setLogLevel("WARN")
    if local:
        context.pythonExec = sys.executable  # not what happens to be called python3
    made = kind(context)
    if not local:
        _wait_for_an_executor(made, master)
    return made


def _start_java(conf: SparkConf, log: Path) -> Any:
    from pyspark import SparkContext
    from pyspark.java_gateway import launch_gateway

    if SparkContext._gateway is not None:  # a session was stopped before; its Java still runs
        return SparkContext._gateway
    with log.open("ab") as out:
        return launch_gateway(conf, {"stdout": out, "stderr": out})  # type: ignore[no-untyped-call]


def _connect(kind: type[SparkSession], address: str, options: dict[str, str]) -> SparkSession:
    """A session of a Spark Connect server; an address may hold a token, so no error repeats it."""
    server = urlsplit(address).hostname
    try:
        made: SparkSession = kind.builder.remote(address).getOrCreate()
        for name, value in (_MEANING | options).items():
            made.conf.set(name, value)
    except ImportError as error:
        raise OfflineStoreError(
            f"Spark Connect needs more packages: pip install 'pyspark[connect]' ({_first_line(error)})"
        ) from None
    except Exception as error:  # gRPC's, or those of what Spark makes of them
        why = _first_line(error).replace(address, str(server))
        raise OfflineStoreError(f"Spark Connect on {server} failed: {why}") from None
    return made


def _common(scratch: Path) -> dict[str, str]:
    return {
        **_MEANING,
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": (scratch / "spark-warehouse").as_uri(),
    }


def _of_this_machine(scratch: Path, memory: str) -> dict[str, str]:
    return {
        "spark.driver.memory": java_memory(memory),
        "spark.local.dir": str(scratch),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": str(LOCAL_PARTITIONS),
    }


def check_reachable(master: str, within_s: float = REACHABLE_WITHIN_S) -> None:
    """A connection to one of the cluster's addresses: Spark itself would try for minutes before it says so.

    Raises ``OfflineStoreError``.
    """
    scheme, _, rest = master.removeprefix("k8s://").partition("://")
    if not rest:
        return  # local, or found by the cluster's own configuration
    default = {"https": 443, "http": 80, "sc": 15002}.get(scheme, 7077)
    failures = []
    for place in rest.split(","):
        parts = urlsplit(f"//{place}")
        address = (parts.hostname or "", parts.port or default)
        try:
            with socket.create_connection(address, within_s):
                return
        except OSError as error:
            failures.append(f"{address[0]}:{address[1]} ({error.strerror or error})")
    raise OfflineStoreError(f"no Spark can be reached at {', '.join(failures)}; is FRAUDML_OFFLINE_URL right?")


def _wait_for_an_executor(made: SparkSession, master: str) -> None:
    """Run one small task: without executors Spark would wait for them for ever, and say so only in its log."""
    context = made.sparkContext
    timer = threading.Timer(EXECUTOR_WITHIN_S, context.cancelAllJobs)
    timer.start()
    try:
        context.parallelize([0], 1).count()
    except Exception as error:  # py4j's
        late = timer.finished.is_set()
        made.stop()
        if late:
            raise OfflineStoreError(
                f"{master} gave no executor within {EXECUTOR_WITHIN_S:g} s: are its workers up, and do they have "
                "the memory and cores that spark-defaults.conf asks for?"
            ) from None
        raise OfflineStoreError(f"a first task on {master} failed: {_first_line(error)}") from error
    finally:
        timer.cancel()


def _why_no_start(log: Path) -> str:
    """What Java, or its absence, left in the log."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    text = "\n".join(lines[-20:])
    if "JAVA_HOME is not set" in text or "No such file" in text or "command not found" in text:
        return "Spark needs Java 17 or newer, and there is none: install it, or set JAVA_HOME to where it is"
    if "UnsupportedClassVersionError" in text:
        return "Spark needs Java 17 or newer; JAVA_HOME, or java on the PATH, is an older one"
    return f"Spark's Java did not start: {lines[-1] if lines else 'it said nothing'}; see {log}"


def _first_line(error: BaseException) -> str:
    java = getattr(error, "java_exception", None)
    text = str(java.toString() if java is not None else error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of PySpark on versions of packages that it uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield
