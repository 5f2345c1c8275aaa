"""What Spark's failures mean, in one line each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fraudml.errors import FraudmlError, OfflineStoreError

# What a failure's text may contain -> what it means and what to do. The first that fits counts.
_MEANINGS = (
    (
        (
            "No module named 'fraudml",
            "No module named 'pyarrow",
            "No module named 'onnxruntime",
            "No module named 'xgb",
        ),
        "Spark's executors lack a Python package that fraudml needs: install fraudml on them "
        "(or in the image or archive that they run), in the version of this machine",
    ),
    (
        ("OutOfMemoryError", "exceeds memory limits", "Container killed by YARN", "Reason: OOMKilled", "MemoryError"),
        "Spark ran out of memory: raise FRAUDML_MEMORY_LIMIT (spark:local) or spark.executor.memory (a cluster)",
    ),
    (
        ("No space left on device",),
        "Spark ran out of disk space for what it spills or writes: free some, or move FRAUDML_SPARK_DIRECTORY",
    ),
    (
        ("FileNotFoundException", "PATH_NOT_FOUND", "FAILED_READ_FILE", "Mkdirs failed to create"),
        "Spark's executors cannot reach the working directory: set FRAUDML_SPARK_DIRECTORY to one that every machine "
        "of the cluster reads and writes",
    ),
    (
        ("ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE"),
        "a sum over a window does not fit into Spark's numbers: shorten the window, or declare the column a number",
    ),
)
_GONE = ("Answer from Java side is empty", "Connection refused", "Cannot call methods on a stopped", "Broken pipe")


@contextmanager
def spark_errors() -> Iterator[None]:
    """Every failure of Spark becomes an ``OfflineStoreError``, with Spark's own as its cause."""
    try:
        yield
    except FraudmlError:
        raise
    except Exception as error:
        if not _is_sparks(error):
            raise
        raise OfflineStoreError(meaning(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without PySpark's remarks on versions of packages that it uses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def meaning(error: BaseException) -> str:
    """One line that says what failed.

    >>> meaning(RuntimeError("java.lang.OutOfMemoryError: Java heap space"))[:26]
    'Spark ran out of memory: r'
    >>> meaning(RuntimeError("something else"))
    'Spark failed: something else'
    """
    text = _text(error)
    if any(words in text for words in _GONE):
        return "Spark has ended (out of memory, most often: raise FRAUDML_MEMORY_LIMIT); spark.log says more"
    for signs, said in _MEANINGS:
        if any(sign in text for sign in signs):
            return f"{said} ({_telling(text)})"
    return f"Spark failed: {_telling(text)}"


def _is_sparks(error: BaseException) -> bool:
    """By its module: py4j, which carries Java's errors, is a dependency of Spark's and not of ours."""
    return type(error).__module__.partition(".")[0] in ("pyspark", "py4j", "grpc") or isinstance(error, ConnectionError)


def _text(error: BaseException) -> str:
    try:
        return str(error).strip() or type(error).__name__
    except Exception:  # Spark asks Java for the text, which may be gone
        return "Connection refused"


def _telling(text: str) -> str:
    """The line that tells most: the last of a Python worker's traceback, else the first."""
    text = text.partition("JVM stacktrace:")[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last):" in lines:
        start = lines.index("Traceback (most recent call last):")
        ends = [line for line in lines[start + 1 :] if _is_last(line)]
        return ends[0] if ends else lines[-1]
    return lines[0]


def _is_last(line: str) -> bool:
    """``package.SomeError: what it says``."""
    name, colon, _ = line.partition(":")
    return bool(colon) and name.replace(".", "").replace("_", "").isalnum() and not line.startswith("File ")
