"""Exports into Parquet files: whatever is killed, full or done twice at once, the files hold the log's rows once."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import fsspec
import msgspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import SecretStr

from fraudml import wiring
from fraudml.adapters.connections import files
from fraudml.adapters.connections.files import Files, open_files
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.warehouse.parquet import ParquetWarehouse
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import pack_vector
from fraudml.decisions.warehouse import DECISIONS, LABELS, Warehouse, exported_schemas
from fraudml.errors import ConfigError, MissingExtra, WarehouseError
from fraudml.settings import Settings
from tests.integration.test_warehouse_sync import PROJECT
from tests.support import prepared, waiting
from tests.support.commands import refused, well
from tests.support.lakes import contents, decided, expected, export, reported, twice
from tests.support.scoring import SCHEMA, T0, decision, transaction
from tests.support.warehouses import SETTING, Tables, parquet_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as opened:
        yield opened


@pytest.fixture
def tables() -> Tables:
    return parquet_tables(f"memory://{uuid4().hex}/lake")


def test_days_are_folders_and_small_files_of_ended_days_are_put_together(tmp_path: Path, log: DecisionLog) -> None:
    tables = parquet_tables(f"file://{tmp_path}/lake")
    for hour in range(1, 60, 2):
        decided(log, hour)
        reported(log, hour, fraud=hour % 3 == 0, after=0.5)
        assert export(tables.open(), log) == (1, 1)
    found = open_files(tables.url, SETTING).below(DECISIONS)
    count = Counter(name.split("/")[1] for name in found)
    assert set(count) == {"day=2024-05-01", "day=2024-05-02", "day=2024-05-03"}
    assert count["day=2024-05-01"] < 8
    assert count["day=2024-05-02"] < 8
    assert count["day=2024-05-03"] == 6  # this day goes on
    pattern = f"{tmp_path}/lake/decisions/**/*.parquet"
    with duckdb.connect() as connection:  # as it is in the guide
        by_day = connection.execute(
            "SELECT day::VARCHAR, count(*) FROM read_parquet(?, hive_partitioning = true, union_by_name = true) "
            "WHERE day <= DATE '2024-05-02' GROUP BY day ORDER BY day",
            [pattern],
        )
        assert by_day.fetchall() == [("2024-05-01", 12), ("2024-05-02", 12)]
    assert contents(tables) == expected(log)
    assert len(contents(tables)[DECISIONS]) == len(contents(tables)[LABELS]) == 30


def test_files_that_somebody_removed_are_rows_that_are_gone(tables: Tables, log: DecisionLog) -> None:
    """As to keep no more than some years."""
    for hour in range(10):
        decided(log, hour)
        export(tables.open(), log)
    store = open_files(tables.url, SETTING)
    store.remove(store.below(DECISIONS)[:5])
    decided(log, 50, 60)
    assert export(tables.open(), log) == (2, 0)
    assert export(tables.open(), log) == (0, 0)
    assert len(contents(tables)[DECISIONS]) == 5 + 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose log has been exported many times, and what is to export now, with days that have ended."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "fraudml.yaml").write_text(PROJECT)
    monkeypatch.setenv(SETTING, "file:lake")
    return folder


def log_of(project: Path) -> SqliteDecisionLog:
    return SqliteDecisionLog(f"sqlite:///{project / '.fraudml' / 'fraudml.db'}", SCHEMA)


def test_the_command_is_killed_at_any_step(project: Path, tmp_path: Path) -> None:
    """The real command, by SIGKILL, before each step that changes something on the disk."""
    lake = project / "lake"
    tables = parquet_tables(f"file://{lake}")
    with closing(log_of(project)) as log:
        for hour in range(7):
            decided(log, hour)
            export(tables.open(), log)
        before = {arrival for (arrival,) in tables.rows("fraudml_decisions", ["arrival"])}
        decided(log, 7, 40)
        truth = expected(log)
        shutil.copytree(lake, tmp_path / "before")
        command = ["warehouse", "sync", "--json"]
        doubled = 0
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for step in range(1, 1_000):
                shutil.rmtree(lake)
                shutil.copytree(tmp_path / "before", lake)
                process.stdin.write(json.dumps([str(project), step, command]) + "\n")
                process.stdin.flush()
                code, steps = json.loads(process.stdout.readline())
                if code == 0:
                    break
                assert (code, steps) == (-signal.SIGKILL, step - 1)
                seen = {arrival for (arrival,) in tables.rows("fraudml_decisions", ["arrival"])}
                assert before <= seen, step
                doubled += bool(twice(tables))
                export(tables.open(), log)
                assert contents(tables) == truth, step
        assert step > 30
        assert doubled > 0  # while merged files are removed, and only then
    assert contents(tables) == truth


class Full(MemoryFileSystem):  # type: ignore[misc]
    """A store on which so many bytes are free; a file that does not fit stays there in part."""

    protocol = "full"
    free = 0
    number = errno.ENOSPC

    def _take(self, size: int) -> None:
        if size > Full.free:
            raise OSError(Full.number, os.strerror(Full.number))
        Full.free -= size

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        data = Path(lpath).read_bytes()
        try:
            self._take(len(data))
        except OSError:
            super().pipe_file(rpath, data[: len(data) // 2])
            raise
        super().pipe_file(rpath, data)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._take(len(value))
        super().pipe_file(path, value, mode)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(str(path).removeprefix("full://")))


def is_full(warehouse: Warehouse, log: DecisionLog) -> bool:
    """Export what fits."""
    try:
        export(warehouse, log, batch_size=2)
    except WarehouseError as error:
        return "No space left on device; free space there, and run it again" in str(error)
    return False


def test_a_full_disk_loses_nothing(tables: Tables, log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("full", Full, clobber=True)
    decided(log, 1, 2, 30, 31)
    reported(log, 1, fraud=True, after=60)
    truth = expected(log)
    failed = 0
    for free in range(0, 30_000, 1_500):
        place = f"{uuid4().hex}/lake"
        seen = parquet_tables(f"memory://{place}")
        full = ParquetWarehouse(open_files(f"full://{place}", SETTING))
        Full.free = free
        failed += is_full(full, log)
        Full.free = 10**9
        export(ParquetWarehouse(open_files(f"full://{place}", SETTING)), log, batch_size=2)
        assert contents(seen) == truth
    assert failed > 10
    Full.free, Full.number = 0, errno.EACCES
    monkeypatch.setattr(Full, "number", errno.EACCES)
    with pytest.raises(WarehouseError, match="Permission denied; let this user read, write and delete there"):
        export(ParquetWarehouse(open_files("full://other/lake", SETTING)), log)


def test_the_kernels_limit_on_files_loses_nothing(project: Path) -> None:
    limit = 60_000
    with closing(log_of(project)) as log:
        numbers = np.random.default_rng(1).normal(size=(4_000, 3))
        log.append(
            [
                msgspec.structs.replace(decision(transaction(n), T0 + n), vector=pack_vector(vector))
                for n, vector in enumerate(numbers, 1)
            ]
        )
        done = subprocess.run(
            [sys.executable, "-m", "fraudml", "warehouse", "sync", "--json"],
            cwd=project,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("fraudml: file://")
        assert "File too large; raise the limit on the size of files" in done.stderr
        assert done.stderr.count("\n") == 1
        tables = parquet_tables(f"file://{project}/lake")
        assert contents(tables)[DECISIONS] == []
        assert well("warehouse", "sync", "--json", cwd=project).json["decisions"]["rows"] == 4_000
        assert contents(tables) == expected(log)


def test_it_goes_on_until_it_is_asked_to_end(project: Path) -> None:
    lake = project / "lake"
    tables = parquet_tables(f"file://{lake}")

    def rows() -> int:
        return len(tables.rows("fraudml_decisions", ["arrival"]))

    with closing(log_of(project)) as log:
        decided(log, 1, 2)
        with subprocess.Popen(
            [*prepared.command(), "warehouse", "sync", "--every", "1s"],
            cwd=project,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert "2 decisions, 0 labels in" in process.stderr.readline()
            assert rows() == 2
            lake.rename(project / "aside")
            lake.write_text("a file")
            decided(log, 3)
            assert "Not a directory; check the place in FRAUDML_WAREHOUSE_URL" in (said := process.stderr.readline())
            assert said.rstrip().endswith("trying again in 1 s")
            lake.unlink()
            (project / "aside").rename(lake)
            waiting.until(lambda: rows() == 3)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0
        assert contents(tables) == expected(log)
    assert "--every must be at least 1s" in refused("warehouse", "sync", "--every", "10ms", cwd=project)


def test_what_is_wrong_is_said(tables: Tables, log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def warehouse(url: str) -> Warehouse:
        return wiring.warehouse(Settings(warehouse_url=SecretStr(url)))

    def missing(*given: Any, **named: Any) -> Any:
        raise ImportError("Install something")

    with pytest.raises(
        ConfigError, match="names no directory or prefix below which files could be; write file:///data"
    ):
        warehouse("file:///")
    with monkeypatch.context() as without:
        without.setattr(fsspec, "url_to_fs", missing)
        with pytest.raises(
            ConfigError, match="starts with s3:, which needs a driver; install it with: pip install s3fs"
        ):
            warehouse("s3://bucket/lake")
        with pytest.raises(ConfigError, match="starts with sftp:, which lacks a package: Install something"):
            warehouse("sftp://host/lake")
        without.setitem(sys.modules, "fsspec", None)
        with pytest.raises(MissingExtra, match=r"pip install 'fraudml\[lake\]'"):
            warehouse("s3://bucket/lake")
        with pytest.raises(ConfigError, match="that starts with snowflake:, bigquery:, file:, s3: or gs:"):
            warehouse("postgresql://host/db")
    decided(log, 1)
    export(tables.open(), log)
    other = msgspec.structs.replace(SCHEMA, attributes={"country": SCHEMA.attributes["items"]})
    with pytest.raises(
        WarehouseError, match=r"the column 'country' of .* is string and would be int64: give it another"
    ):
        tables.open().prepare(exported_schemas(other))
    store = open_files(tables.url, SETTING)
    store.create(f"_fraudml/{DECISIONS}/{9:012}.json", b'{"format": 2}')
    with pytest.raises(WarehouseError, match="has the format 2, and this fraudml knows 1"):
        export(tables.open(), log)
    store.create(f"_fraudml/{DECISIONS}/{10:012}.json", b"{")
    with pytest.raises(WarehouseError, match="is no manifest of fraudml"):
        export(tables.open(), log)


def test_a_store_that_overwrites_is_refused(tables: Tables, log: DecisionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwritten(self: Files, name: str, data: bytes) -> None:
        self._system.pipe_file(self._path(name), data)

    monkeypatch.setattr(Files, "create", overwritten)
    with pytest.raises(WarehouseError, match="knows no conditional writes"):
        export(tables.open(), log)


def test_doctor_tries_the_place(tables: Tables, tmp_path: Path) -> None:
    assert files.facts(tables.url, SETTING).trials[0].problem is None
    assert open_files(tables.url, SETTING).below("") == []
    assert files.facts(f"file://{tmp_path}/none/lake", SETTING).place.endswith("/none/lake")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(WarehouseError, match="Not a directory"):
        files.facts(f"file://{tmp_path}/file/lake", SETTING)
