"""Scoring and training on Spark: the same as on this machine, and nothing half done when something fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraudml.adapters.connections import spark as connection
from fraudml.adapters.offline._spark_score import published, write_decisions
from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.adapters.offline.spark import SparkOfflineStore
from fraudml.decisions import history as local
from fraudml.decisions.costs import Costs
from fraudml.decisions.history import ScoresThere
from fraudml.errors import ConfigError, MissingExtra, OfflineStoreError
from fraudml.features.stores import OfflineStore
from fraudml.models import bundle as bundles
from fraudml.models.bundle import Bundle
from fraudml.training import _spark_fit, dataset, packing, report, train
from fraudml.training import spark as there
from tests.support import spark
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES
from tests.support.spark_world import history

ROWS = 2_000
ORDER = [("event_time", "ascending"), ("tx_id", "ascending")]
COSTS = Costs()
OPTIONS = train.Options(("xgboost",), seed=0, threads=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkOfflineStore]:
    """Holds ``history(ROWS)``."""
    made = SparkOfflineStore(spark.session(), tmp_path_factory.mktemp("spark"))
    made.put(history(ROWS).to_reader())
    yield made
    made.close()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    make_bundle(tmp_path / "bundle", FEATURES, weights=[0.001, 0.1, 0.2, -0.0001, 0.3])
    return bundles.load(tmp_path / "bundle", version="7")


def scored_here(bundle: Bundle) -> pa.Table:
    store = DuckDBOfflineStore(threads=1)
    store.put(history(ROWS).to_reader())
    found = pa.Table.from_batches(list(local.score(store, bundle)))
    store.close()
    return found


@pytest.mark.parametrize("by_day", [False, True])
def test_scores_are_those_of_this_machine(
    store: SparkOfflineStore, bundle: Bundle, tmp_path: Path, by_day: bool
) -> None:
    out = tmp_path / "scores.parquet"
    actions = store.score(bundle, str(out), by_day=by_day)
    expected = scored_here(bundle)
    found = pq.read_table(out)
    assert found.select(expected.column_names).sort_by(ORDER).cast(expected.schema).equals(expected)
    assert actions == {c["values"]: c["counts"] for c in expected["action"].value_counts().to_pylist()}
    assert len(actions) == 3
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    days = {f"day={time:%Y-%m-%d}" for time in expected["event_time"].to_pylist()}
    assert folders == (sorted(days) if by_day else [])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("scores")] == ["scores.parquet"]


def test_an_output_may_be_a_uri_and_replaces_what_was_there(
    store: SparkOfflineStore, bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    (out / "old.parquet").touch()
    store.score(bundle, f"file://{out}")
    assert pq.read_table(out).num_rows == ROWS
    assert not (out / "old.parquet").exists()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    store: SparkOfflineStore, bundle: Bundle, tmp_path: Path, scheme: str
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    (out / "old.parquet").touch()
    assert bundle.directory is not None
    (bundle.directory / bundles.MODEL_FILE).write_bytes(b"not the model")
    with pytest.raises(OfflineStoreError, match=r"model\.onnx is corrupt") as caught:
        store.score(bundle, f"{scheme}{out}")
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "scores"]
    assert [path.name for path in out.iterdir()] == ["old.parquet"]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_executors_wrote_where_nobody_else_sees_it_replaces_nothing(
    store: SparkOfflineStore, bundle: Bundle, tmp_path: Path, scheme: str
) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    (out / "old.parquet").touch()
    with pytest.raises(OfflineStoreError, match=r"2,000 of 2,001 decisions can be read.* all executors share"):
        write_decisions(store.frame(bundle.feature_set), ROWS + 1, bundle, f"{scheme}{out}", by_day=False)
    with (
        pytest.raises(Exception, match=r"renamed|No such file|not exist"),
        published(spark.session(), f"{scheme}{out}"),
    ):
        pass  # nothing was written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "scores"]
    assert [path.name for path in out.iterdir()] == ["old.parquet"]


def test_results_come_back_in_parts_and_in_order(store: SparkOfflineStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a few hundred rows, in more files than one where an hour has more."""
    monkeypatch.setattr("fraudml.adapters.offline.spark.PART_ROWS", 300)
    found = pa.Table.from_batches(list(store.features(FEATURES)))
    assert found.select(["event_time_us", "transaction_id"]).equals(
        history(ROWS)
        .select(["event_time_us", "transaction_id"])
        .sort_by([("event_time_us", "ascending"), ("transaction_id", "ascending")])
    )


def test_a_directory_by_uri_goes_through_spark(store: SparkOfflineStore, tmp_path: Path) -> None:
    """What a cluster's file system gets: history written and results read by Spark itself."""
    remote = SparkOfflineStore(spark.session(), f"file://{tmp_path}")
    remote.put(history(ROWS).to_reader(700))
    found = pa.Table.from_batches(list(remote.features(FEATURES)))
    assert found.equals(pa.Table.from_batches(list(store.features(FEATURES))))
    remote.close()
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[there.SparkResult, train.LocalResult]]:
    """The same training run on the cluster, by two tasks, and on this machine."""
    rows = history(6_000)
    here = DuckDBOfflineStore(threads=1)
    here.put(rows.to_reader())
    data = dataset.build(here, FEATURES)
    here.close()
    store = SparkOfflineStore(spark.session(), tmp_path_factory.mktemp("spark"))
    store.put(rows.to_reader())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_spark_fit, "CELLS_PER_THREAD", 10_000)
        remote = there.train(store.vectors(FEATURES), FEATURES, COSTS, OPTIONS, no_step)
        yield remote, train.train(data, FEATURES, COSTS, OPTIONS, no_step)
    store.close()


def no_step(name: str) -> train.Callable[[int, int], None]:
    return lambda done, total: None


def test_a_model_of_the_cluster_is_as_good(larger: tuple[there.SparkResult, train.LocalResult]) -> None:
    remote, here = larger
    assert remote.overview.whole == here.overview.whole
    for name in ("train", "valid", "test"):
        mine, theirs = getattr(remote.overview, name), getattr(here.overview, name)
        assert abs(mine.rows - theirs.rows) <= 3
    ours, other = remote.candidates[0], here.candidates[0]
    assert ours.test_metrics["roc_auc"] == pytest.approx(other.test_metrics["roc_auc"], abs=0.01)
    assert ours.test_metrics["average_precision"] == pytest.approx(other.test_metrics["average_precision"], abs=0.03)
    assert ours.model.params | {"max_rows": 0} == other.model.params | {"max_rows": 0}
    assert ours.model.size == other.model.size


def test_it_becomes_a_bundle_like_any_other(
    larger: tuple[there.SparkResult, train.LocalResult], store: SparkOfflineStore, tmp_path: Path
) -> None:
    remote, here = larger
    finished = train.finish(remote, remote.candidates[0], no_step)
    manifest = packing.pack(remote, finished, tmp_path / "bundle")
    assert manifest.training.rows == len(here.mature)
    assert manifest.training.frauds == here.mature.frauds
    assert manifest.training.until_us == int(here.mature.event_time_us.max()) + 1
    assert len(manifest.background) == packing.BACKGROUND_ROWS
    assert report.write(remote, tmp_path).read_text(encoding="utf-8").startswith("<!doctype html>")
    bundle = bundles.load(tmp_path / "bundle", expect=FEATURES)
    store.score(bundle, str(tmp_path / "scores"))
    found = pq.read_table(tmp_path / "scores").sort_by(ORDER)
    expected = scored_here(bundle)
    np.testing.assert_allclose(found["score"].to_numpy(), expected["score"].to_numpy(), rtol=0, atol=1e-6)


def test_the_same_seed_trains_the_same(larger: tuple[there.SparkResult, train.LocalResult]) -> None:
    remote, _ = larger
    again = there.train(remote.vectors, FEATURES, COSTS, OPTIONS, no_step)
    assert np.array_equal(again.candidates[0].scores, remote.candidates[0].scores)
    assert again.overview == remote.overview


def test_what_is_held_back_is_bounded(
    larger: tuple[there.SparkResult, train.LocalResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote, _ = larger
    monkeypatch.setattr(there, "HELD_BACK_ROWS", 700)
    again = there.train(remote.vectors, FEATURES, COSTS, OPTIONS, no_step).overview
    assert 600 < again.valid.rows <= 700
    assert 600 < again.test.rows <= 700
    assert again.valid.until_us == remote.overview.valid.until_us
    assert again.test.since_us == remote.overview.test.since_us
    assert again.waiting > remote.overview.waiting


def test_a_spark_scores_and_trains_by_itself_and_duckdb_does_not(store: SparkOfflineStore) -> None:
    duckdb: OfflineStore = DuckDBOfflineStore(threads=1)
    assert isinstance(store, ScoresThere)
    assert isinstance(store, there.TrainsThere)
    assert not isinstance(duckdb, ScoresThere | there.TrainsThere)
    duckdb.close()


def test_a_process_works_on_one_spark(tmp_path: Path) -> None:
    assert connection.session(spark.URL, tmp_path) is spark.session()
    with pytest.raises(ConfigError, match=r"works on local\[2\] already"):
        connection.session("spark:local[1]", tmp_path)


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OfflineStoreError, match=r"no Spark can be reached at 127\.0\.0\.1:1 "):
        connection.session("spark://127.0.0.1:1", tmp_path)
    with pytest.raises(OfflineStoreError, match=r"no Spark can be reached at 127\.0\.0\.1:1 ") as caught:
        connection.session("sc://127.0.0.1:1/;token=secret", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_missing_java_and_a_missing_package_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from pathlib import Path; from fraudml.adapters.connections import spark; from fraudml.errors import *\n"
        "try: spark.session('spark:local[1]', Path('.'))\n"
        "except OfflineStoreError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"JAVA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.startswith("Spark needs Java 17 or newer, and there is none")
    assert done.stderr == ""
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(MissingExtra, match=r"fraudml\[spark\]"):
        connection.session(spark.URL, tmp_path)
