"""The Spark of this test process: two cores of this machine, started with the first test that asks for it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fraudml.adapters.connections import spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

URL = "spark:local[2]"
# For a Java that lives for seconds or minutes: it compiles less, collects in one thread, trusts the classes it loads.
SHORT_LIVED = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
)
# The queries of tests are many and about a few rows: what makes long ones fast (compiling each query to bytecode and
# that to machine code, planning again between stages, several collectors) costs more than it brings.
SMALL = {
    "spark.sql.shuffle.partitions": "2",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
    "spark.driver.extraJavaOptions": " ".join(SHORT_LIVED),
}


@lru_cache(maxsize=1)
def session() -> SparkSession:
    """The session; a test that cannot have one, for want of Java, is skipped."""
    if shutil.which("java") is None:
        pytest.skip("no Java for Spark")
    scratch = tempfile.mkdtemp(prefix="fraudml-spark-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    made = spark.session(URL, Path(scratch), "1GB", SMALL)
    atexit.register(made.stop)  # before its directory is removed
    return made
