"""``fraudml bench serve`` as a user runs it, on a small project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudml import project as projects
from fraudml import wiring
from fraudml.models import lifecycle
from fraudml.settings import Settings
from tests.support import prepared
from tests.support.answering import answer, answering
from tests.support.bundles import make_bundle
from tests.support.commands import refused, well

DECLARED = """
schema:
  event_time: {column: time}
  entities: {customer: customer_id, merchant: merchant_id}
  amount: {column: amount}
  attributes:
    country: {type: category, vocabulary: [DE, FR]}
features:
  - {name: amount, kind: attribute, of: amount}
  - {name: n_1d, kind: window, over: customer, agg: count, length: 1d}
  - {name: sum_7d, kind: window, over: merchant, agg: sum, of: amount, length: 7d}
"""
SHORT = ("--seconds", "1", "--warmup", "0.3", "--entities", "50")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    directory = tmp_path_factory.mktemp("bench")
    (directory / "fraudml.yaml").write_text(DECLARED, encoding="utf-8")
    declared = projects.parse(DECLARED)
    make_bundle(directory / "bundle", declared.feature_set)
    registry = wiring.registry(Settings(_env_file=None, home=prepared.empty_registry(directory / ".fraudml")))
    lifecycle.promote(registry, registry.register(directory / "bundle").version, "the only one")
    return directory


def files(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_closed_and_an_open_loop_on_a_service_of_its_own(project: Path, tmp_path: Path) -> None:
    before = files(project / ".fraudml")
    several = ("--connections", "1", "--connections", "4")
    done = well("bench", "serve", *SHORT, *several, "--json", "-o", str(tmp_path / "closed"), cwd=project)
    written = msgspec.json.decode((tmp_path / "closed" / "serve.json").read_bytes())
    assert done.json == written
    assert [each["connections"] for each in written["loads"]] == [1, 4]
    for each in written["loads"]:
        check(each)
    assert written["model_version"] == "1"
    assert (tmp_path / "closed" / "serve.png").read_bytes().startswith(b"\x89PNG")

    rate = ("--rate", "50", "--poisson")
    shown = well("bench", "serve", *SHORT, *rate, "-o", str(tmp_path / "open"), cwd=project)
    assert "p99.9" in shown.out
    (found,) = msgspec.json.decode((tmp_path / "open" / "serve.json").read_bytes())["loads"]
    check(found)
    assert found["rate"] == 50
    assert found["requests"] <= 65
    after = files(project / ".fraudml")
    assert "fraudml.db" not in after  # the project's own log was not even made
    assert [name for name in before if after[name] != before[name] and (project / ".fraudml" / name).is_file()] == []


def check(found: dict[str, Any]) -> None:
    """Every transaction was new and got a decision."""
    assert found["errors"] == {}
    assert found["throughput_per_s"] > 5
    times = found["latency_ms"]
    told = [value for value in times.values() if value is not None]
    assert list(times) == ["p50", "p95", "p99", "p99.9", "max"]
    assert told == sorted(told)
    assert 0 < times["p50"] <= times["max"]
    assert found["timed"] == found["requests"]
    assert found["profiled"] is False
    if Path("/proc/self/stat").exists():
        assert found["server"]["peak_mib"] > 20
        assert found["server"]["cpu_percent"] > 0


def test_batches_on_a_running_service(project: Path, tmp_path: Path) -> None:
    """It is asked as the API wants it; what it answers is up to the test."""
    with answering(lambda number: answer(body=b'{"results":[],"scored":7,"failed":0}')) as server:
        url = ("--url", f"http://127.0.0.1:{server.port}", "--key", "fml_me")
        done = well("bench", "serve", *SHORT, *url, "--batch", "7", "--json", "-o", str(tmp_path), cwd=project)
    (found,) = done.json["loads"]
    assert found["errors"] == {}
    assert found["transactions_per_s"] == pytest.approx(7 * found["throughput_per_s"])
    assert done.json["own_service"] is False
    assert {len(body["transactions"]) for body in server.bodies} == {7}
    assert all(head.startswith(b"POST /v1/batch-predict ") for head in server.heads)
    assert all(b"Authorization: Bearer fml_me" in head for head in server.heads)


def test_a_service_that_refuses_everything_is_an_error_with_what_it_said(project: Path, tmp_path: Path) -> None:
    with answering(lambda number: answer(401, b'{"detail":"no such key"}')) as server:
        url = ("--url", f"http://127.0.0.1:{server.port}", "--key", "fml_wrong")
        said = refused("bench", "serve", *SHORT, *url, "-o", str(tmp_path), cwd=project)
    assert "401" in said
    assert "no such key" in said


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--poisson",), "--rate"),
        (("--rate", "10", "--connections", "1", "--connections", "2"), "--connections once"),
        (("--batch", "10001"), "FRAUDML_MAX_BATCH"),
        (("--url", "http://127.0.0.1:1"), "--key"),
        (("--url", "https://127.0.0.1", "--key", "k"), "plain HTTP"),
        (("--url", "http://127.0.0.1:1", "--key", "k"), "cannot connect"),
        (("--model", "99"), "99"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_named_in_one_line(words: tuple[str, ...], reason: str, project: Path, tmp_path: Path) -> None:
    assert reason in refused("bench", "serve", *SHORT, *words, "-o", str(tmp_path), cwd=project)
