"""`fraudml decisions verify` and `replay` over what a real service decided."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_kill import rows
from tests.support import trained
from tests.support.commands import fraudml, refused, well
from tests.support.serving import an_example, serving


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose service has decided 60 transactions, the last 20 with a prediction cache, and got a label."""
    directory = trained.project(tmp_path_factory.mktemp("decided"))
    key = well("keys", "create", "test", "--scope", "admin", cwd=directory).out.strip()
    for turn, count, cache in ((0, 40, "off"), (1, 20, "on")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FRAUDML_CACHE", cache)
            with serving(directory) as service, service.client(key) as client:
                sent = list(islice(rows(an_example(client), turn), count))
                for _, event in sent:
                    client.post("/v1/predict", json=event).raise_for_status()
                label = {"transaction_id": sent[0][0], "is_fraud": True}
                client.post("/v1/labels", json=label).raise_for_status()
    return directory


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The same project, to be changed."""
    shutil.copytree(home, tmp_path / "project")
    return tmp_path / "project"


def change(project: Path, *statements: str) -> None:
    with closing(sqlite3.connect(project / ".fraudml" / "fraudml.db")) as file:
        for statement in statements:
            file.execute(statement)
        file.commit()


def test_a_log_is_verified_and_replayed(home: Path) -> None:
    told = well("decisions", "verify", "--json", cwd=home).json
    assert (told["decisions"], told["labels"], told["wrong"], told["unchained"]) == (60, 2, 0, 0)
    assert "60 decisions and 2 label reports" in well("decisions", "verify", cwd=home).out
    report = well("decisions", "replay", "--since", "1h", "--json", cwd=home).json
    assert (report["decisions"], report["identical"], report["differing"]) == (60, 60, 0)
    assert report["versions"]["1"]["quantised"] > 0
    assert "60 identical" in well("decisions", "replay", "--since", "1h", cwd=home).out


def test_a_part_of_the_log_is_replayed(home: Path) -> None:
    def count(*options: str) -> Any:
        return well("decisions", "replay", *options, "--json", cwd=home).json["decisions"]

    assert count("--since", "2020-01-01T00:00Z", "--limit", "7") == 7
    assert count("--since", "2h", "--until", "1h") == 0
    assert count("--since", "2020-01-01T00:00:00+02:00", "--until", "0s") == 60


def test_one_decision_is_shown_with_its_reasons(home: Path) -> None:
    with closing(sqlite3.connect(home / ".fraudml" / "fraudml.db")) as file:
        (name,) = file.execute("SELECT transaction_id FROM transactions LIMIT 1").fetchone()
    one = well("decisions", "replay", name, "--json", cwd=home).json
    assert (one["transaction_id"], one["identical"], one["model_version"]) == (name, True, "1")
    assert one["explanation"]["reasons"]
    assert f"{name}: identical: score" in well("decisions", "replay", name, cwd=home).out
    assert "has not been scored" in refused("decisions", "replay", "nobody", cwd=home)


def test_a_change_is_told(copy: Path) -> None:
    noted = copy / "heads.json"
    noted.write_text(well("decisions", "verify", "--json", cwd=copy).out, encoding="utf-8")
    well("decisions", "verify", "--expect", str(noted), cwd=copy)
    first = "WHERE arrival = (SELECT min(arrival) FROM decisions)"
    change(copy, f"UPDATE decisions SET score = 0.123, action = 'approve' {first}")  # noqa: S608
    done = fraudml("decisions", "verify", cwd=copy)
    assert done.code == 1
    assert "altered: decision" in done.out
    done = fraudml("decisions", "replay", "--since", "1h", cwd=copy)
    assert done.code == 1
    assert "59 identical, 1 differ" in done.out
    assert "logged 0.123 and approve" in done.out
    change(copy, "DELETE FROM labels", "DELETE FROM decisions", "DELETE FROM transactions", "DELETE FROM chain")
    assert "0 decisions" in well("decisions", "verify", cwd=copy).out
    done = fraudml("decisions", "verify", "--expect", str(noted), "--json", cwd=copy)
    assert (done.code, [problem["what"] for problem in done.json["problems"]]) == (1, ["link"])


def test_a_model_that_is_gone_is_told(copy: Path) -> None:
    change(copy, "UPDATE decisions SET model_version = '77'")
    report = well("decisions", "replay", "--since", "1h", cwd=copy).out
    assert "60 cannot be replayed" in report
    assert "77" in report


def test_what_cannot_be_meant_is_refused(home: Path, tmp_path: Path) -> None:
    assert "--since" in refused("decisions", "replay", cwd=home)
    assert "--since" in refused("decisions", "replay", "t1", "--since", "1h", cwd=home)
    assert "time zone" in refused("decisions", "replay", "--since", "2024-05-01T00:00", cwd=home)
    assert "not a duration" in refused("decisions", "replay", "--since", "yesterday", cwd=home)
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    assert "verify --json" in refused("decisions", "verify", "--expect", str(tmp_path / "x.json"), cwd=home)
    assert "nowhere.json" in refused("decisions", "verify", "--expect", "nowhere.json", cwd=home)
