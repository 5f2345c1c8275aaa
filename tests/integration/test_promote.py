"""A promotion reaches a running service, under load, without a restart and without a failed request."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.test_kill import rows
from tests.support import trained
from tests.support.commands import well
from tests.support.hammer import Hammer
from tests.support.serving import an_example, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion and another model."""
    directory = trained.project(tmp_path_factory.mktemp("promote"))
    well("train", "--family", "logistic_regression", "--json", cwd=directory)
    well("models", "promote", "1", "--reason", "test", cwd=directory)
    return directory


def test_each_decision_is_of_one_version_and_none_is_lost(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDML_REFRESH_S", "0.2")
    key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
    with serving(home, as_users_do=True) as service, service.client(key) as client:
        hammer = Hammer(service.port, key, rows(an_example(client), 0), 10**9)
        with ThreadPoolExecutor(1) as pool:
            load = pool.submit(hammer.run, 4)
            assert client.get("/health/ready").json()["model_version"] == "1"
            well("models", "promote", "2", "--reason", "test", cwd=home)
            while client.get("/health/ready").json()["model_version"] != "2":
                hammer.wait_for(1)
            hammer.wait_for(200)
            service.process.terminate()
            load.result(60)
    assert hammer.refused == []
    versions = [decision(body)["model_version"] for body in hammer.acknowledged.values()]
    assert set(versions) == {"1", "2"}
    assert versions.index("2") > 0
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["differing"] == 0, audit["examples"]


def decision(body: bytes) -> Any:
    return msgspec.json.decode(body)
