"""Exports into Parquet files that end, or are overtaken, at any call of the store: the log's rows are there once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudml.adapters.connections.files import Files, open_files
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.warehouse._manifest import Manifests
from fraudml.adapters.warehouse.parquet import ParquetWarehouse
from fraudml.decisions.log import DecisionLog
from fraudml.decisions.warehouse import DECISIONS, exported_schemas
from fraudml.errors import ConflictError
from tests.support.lakes import FOREVER, HOUR_US, contents, decided, expected, export, reported
from tests.support.scoring import SCHEMA
from tests.support.warehouses import SETTING, Tables, parquet_tables


@pytest.fixture
def log(tmp_path: Path) -> Iterator[DecisionLog]:
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as opened:
        yield opened


@pytest.fixture
def tables() -> Tables:
    return parquet_tables(f"memory://{uuid4().hex}/lake")


class Killed(BaseException):
    """The process is no more: nothing that it would do comes to pass."""


class Stepwise(Files):
    """Files of a process to which something happens just before or after one of its calls: the ``at``-th of all, or of
    those of one ``kind``."""

    happens: Callable[[], Any]
    at = 0
    kind = ""
    after = False
    steps = 0
    dead = False

    def _step(self, kind: str, do: Callable[..., Any], *given: Any) -> Any:
        if self.dead:
            raise Killed
        self.steps += self.kind in ("", kind)
        mine = self.steps == self.at and self.kind in ("", kind)
        try:
            if mine and not self.after:
                self.happens()
            result = do(*given)
            if mine and self.after:
                self.happens()
        except Killed:
            self.dead = True
            raise
        return result

    def below(self, folder: str) -> list[str]:
        return list(self._step("below", super().below, folder))

    def inside(self, folder: str) -> list[str]:
        return list(self._step("inside", super().inside, folder))

    def read(self, name: str) -> bytes:
        return bytes(self._step("read", super().read, name))

    def open(self, name: str) -> IO[bytes]:
        opened: IO[bytes] = self._step("open", super().open, name)
        return opened

    def create(self, name: str, data: bytes) -> None:
        self._step("create", super().create, name, data)

    def put(self, made: Path, name: str) -> None:
        self._step("put", super().put, made, name)

    def remove(self, names: Sequence[str]) -> None:
        for name in names:  # one by one: it may end amid them
            self._step("remove", super().remove, [name])


def stepwise(tables: Tables, at: int, happens: Callable[[], Any], *, after: bool, kind: str = "") -> ParquetWarehouse:
    store = Stepwise(fsspec.filesystem("memory"), tables.url.removeprefix("memory:/"), SETTING)
    store.at, store.happens, store.after, store.kind = at, happens, after, kind
    return ParquetWarehouse(store)


def killed() -> None:
    raise Killed


def copied(tables: Tables) -> Tables:
    """The same files at another place."""
    memory = fsspec.filesystem("memory")
    other = f"/{uuid4().hex}/lake"
    before = tables.url.removeprefix("memory:/")
    memory.pipe({other + name.removeprefix(before): memory.cat_file(name) for name in memory.find(before)})
    return parquet_tables(f"memory:/{other}")


def removed(tables: Tables) -> None:
    """All files of all tests are in one dictionary, which each listing goes through."""
    fsspec.filesystem("memory").rm(tables.url.removeprefix("memory:/"), recursive=True)


def alone(_: Tables, __: DecisionLog) -> None:
    raise Killed


def overtaken(tables: Tables, log: DecisionLog) -> None:
    export(tables.open(), log)


def prepared(tables: Tables, _: DecisionLog) -> None:
    """Another process begins, and is killed when it has cleaned up."""
    with closing(tables.open()) as other:
        other.prepare(exported_schemas(SCHEMA))


@pytest.mark.parametrize("happens", [alone, overtaken, prepared])
def test_at_any_step(happens: Callable[[Tables, DecisionLog], None], tables: Tables, log: DecisionLog) -> None:
    """An export with files to put together: it is killed after a step, or sleeps there while another process works, and
    wakes up. Between two calls the store does not change, so that after one is before the next one."""
    for hour in range(7):
        decided(log, hour)
        reported(log, hour, fraud=True, after=0.5)
        export(tables.open(), log)
    decided(log, 7, 40)
    reported(log, 7, fraud=True, after=40)
    truth = expected(log)
    ends = {"whole": 0, "killed": 0, "conflict": 0}
    for at in range(1, 1_000):
        here = copied(tables)
        warehouse = stepwise(here, at, lambda here=here: happens(here, log), after=True)  # type: ignore[misc]
        end = "whole"
        try:
            export(warehouse, log)
        except Killed:
            end = "killed"
        except ConflictError:
            end = "conflict"
        ends[end] += 1
        if happens is overtaken:  # both have done what they could
            assert contents(here) == truth, at
        export(here.open(), log)
        assert contents(here) == truth, at
        removed(here)
        if warehouse._files.steps < at:
            break
    assert at > 30
    assert ends["conflict" if happens is not alone else "killed"] > 3


CALL = (st.sampled_from(["create", "put", "remove"]), st.integers(1, 5), st.booleans())
ACTS = st.one_of(
    st.tuples(st.just("decide"), st.integers(1, 4)),
    st.tuples(st.just("late"), st.integers(1, 30)),
    st.tuples(st.just("report"), st.integers(0, 20)),
    st.tuples(st.just("export"), st.integers(1, 3)),
    st.tuples(st.just("killed"), *CALL),
    st.tuples(st.just("overtaken"), *CALL),
)


@settings(max_examples=25)
@given(st.lists(ACTS, min_size=4, max_size=40))
def test_any_sequence_of_commits_exports_kills_and_overlaps_gives_the_logs_rows(acts: list[Any]) -> None:
    tables = parquet_tables(f"memory://{uuid4().hex}/lake")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(SqliteDecisionLog(f"sqlite:///{folder}/log.db", SCHEMA)) as log,
    ):
        hours: list[float] = []
        exports = 0

        def add(hour: float) -> None:
            if hour >= 0 and hour not in hours:
                hours.append(hour)
                decided(log, hour)

        def export_all() -> None:
            export(tables.open(), log, recheck_us=FOREVER)

        for act, *given in acts:
            number = given[0]
            now = max(hours, default=0.0)
            match act:
                case "decide":
                    for n in range(number):
                        add(now + 3 + n)
                case "late":
                    add(now - number - 0.5)
                case "report" if hours:
                    hour = hours[number % len(hours)]
                    reported(log, hour, fraud=number % 2 == 0, after=now - hour + number / 100)
                case "export":
                    exports += export(tables.open(), log, batch_size=number, recheck_us=48 * HOUR_US)[0]
                case "killed" | "overtaken":
                    happens = killed if act == "killed" else export_all
                    kind, at, after = given
                    with suppress(Killed, ConflictError):
                        warehouse = stepwise(tables, at, happens, after=after, kind=kind)
                        export(warehouse, log, batch_size=2, recheck_us=48 * HOUR_US)
        export_all()
        assert contents(tables) == expected(log)
        manifest = Manifests(open_files(tables.url, SETTING), DECISIONS).last()
        assert sum(part.rows for part in manifest.parts) == len(hours)
        assert export(tables.open(), log, recheck_us=FOREVER) == (0, 0)
