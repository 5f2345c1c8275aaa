"""Which adapters the settings choose."""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb
import msgspec
import pytest
from pydantic import SecretStr

from fraudml import project, wiring
from fraudml.adapters.cache.memory import MemoryPredictionCache
from fraudml.adapters.cache.redis import RedisPredictionCache
from fraudml.adapters.connections.shared_redis import shared_redis
from fraudml.errors import ConfigError, MissingExtra
from fraudml.events.schema import Attribute, AttributeType
from fraudml.features.spec import AttributeFeature, DerivedFeature, FeatureSet
from fraudml.settings import Settings
from tests.support.scoring import SCHEMA

CODE = AttributeFeature("code", of="country")
HOUR = "features: [{name: hour, kind: attribute, of: event_time, transform: hour_of_day}]"
UNSEEN = AttributeFeature("code", of="country", input=False)


@pytest.mark.parametrize(
    ("mode", "values", "features", "is_on"),
    [
        ("auto", wiring.MOST_CODES, [CODE], True),
        ("auto", wiring.MOST_CODES + 1, [CODE], False),
        ("auto", wiring.MOST_CODES + 1, [AttributeFeature("amount", of="amount"), UNSEEN], True),
        ("auto", wiring.MOST_CODES + 1, [UNSEEN, DerivedFeature("half", expression="code / 2")], False),
        ("on", wiring.MOST_CODES + 1, [CODE], True),
    ],
)
def test_the_cache_is_off_by_default_where_codes_would_merge(
    mode: str, values: int, features: list[AttributeFeature], is_on: bool
) -> None:
    country = Attribute(AttributeType.category, vocabulary=tuple(map(str, range(values))))
    schema = msgspec.structs.replace(SCHEMA, attributes=SCHEMA.attributes | {"country": country})
    found = wiring.prediction_cache(Settings(cache=mode), FeatureSet(schema, features))
    assert (found is not None) is is_on


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_the_cache_stays_in_the_process_although_others_share_a_redis(mode: str) -> None:
    shared = shared_redis("redis://127.0.0.1:1/0", 100)
    features = FeatureSet(SCHEMA, [AttributeFeature("amount", of="amount")])
    assert isinstance(wiring.prediction_cache(Settings(cache=mode), features, shared), MemoryPredictionCache)


def test_a_shared_cache_is_in_redis_and_needs_one() -> None:
    features = FeatureSet(SCHEMA, [CODE])
    shared = shared_redis("redis://127.0.0.1:1/0", 100)
    assert isinstance(wiring.prediction_cache(Settings(cache="shared"), features, shared), RedisPredictionCache)
    with pytest.raises(ConfigError, match="FRAUDML_REDIS_URL"):
        wiring.prediction_cache(Settings(cache="shared"), features)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:secret@host/db", "FRAUDML_OFFLINE_URL must start with postgresql:"),
        ("postgresql://me:sec@ret@host:port/db", "FRAUDML_OFFLINE_URL is no URL of PostgreSQL"),
        ("postgresql://me:se/cret@host/db", "FRAUDML_OFFLINE_URL is no URL of PostgreSQL"),
        ("postgresql://me:4/secret@host/db", "FRAUDML_OFFLINE_URL is no URL of PostgreSQL"),
        ("snowflake://me:se/cret@account/db/schema", "FRAUDML_OFFLINE_URL is no URL of Snowflake"),
        ("snowflake://me:se?cret@account/db/schema?role=x", "FRAUDML_OFFLINE_URL is no URL of Snowflake"),
        ("snowflake://me:secret@account/db", "FRAUDML_OFFLINE_URL is no URL of Snowflake"),
        ("snowflake://me:secret@account/db/schema?paramstyle=s", "parameter that fraudml does not know"),
        ("snowflake://me:secret@[/db/schema", "FRAUDML_OFFLINE_URL is no URL of Snowflake"),
        ("bigquery://project", "FRAUDML_OFFLINE_URL is no URL of BigQuery"),
        ("bigquery://project/dataset?secret", "FRAUDML_OFFLINE_URL is no URL of BigQuery"),
    ],
)
def test_a_wrong_url_of_the_offline_store_is_told_without_repeating_it(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        wiring.offline_store(Settings(offline_url=SecretStr(url)))
    assert not any(piece in str(caught.value) for piece in ("sec", "cret", "ret@"))


@pytest.mark.parametrize("extra", ["postgres", "snowflake", "bigquery"])
def test_a_missing_driver_names_its_extra(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drivers = {"postgres": "psycopg", "snowflake": "snowflake.connector", "bigquery": "google.cloud"}
    urls = {"postgres": "postgresql://h/d", "snowflake": "snowflake://u@a/d/s", "bigquery": "bigquery://p/d"}
    monkeypatch.setitem(sys.modules, drivers[extra], None)
    with pytest.raises(MissingExtra, match=rf"fraudml\[{extra}\]"):
        wiring.offline_store(Settings(offline_url=SecretStr(urls[extra])))


def test_history_comes_from_databases_too(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "shop.db") as connection:
        connection.execute("CREATE TABLE t AS SELECT TIMESTAMPTZ '2024-05-01 00:00:00+00' AS time FROM range(3)")
    url = f"duckdb:///{tmp_path}/shop.db?table=t"
    declared = project.parse(f"{{source: '{url}', schema: {{event_time: {{column: time}}}}, {HOUR}}}")
    for paths in (None, [url]):
        found = wiring.history(Settings(home=tmp_path), declared, paths, tmp_path / "rejects.csv")
        assert sum(batch.num_rows for batch in found.read()) == found.rejects().rows == 3


@pytest.mark.parametrize(
    ("url", "modules", "extra"),
    [
        ("postgresql://h/db/t", ["psycopg", "fraudml.adapters.source.postgres"], "postgres"),
        ("snowflake://a/d/s/t", ["snowflake.connector"], "snowflake"),
        ("bigquery://p/d/t", ["google.cloud"], "bigquery"),
    ],
)
def test_a_missing_driver_is_told_with_what_to_install(
    url: str, modules: list[str], extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'fraudml\[{extra}\]'"):
        wiring.source(Settings(home=tmp_path), SCHEMA, [url], tmp_path / "rejects.csv").read()
