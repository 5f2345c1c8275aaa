"""The real monitor, and the commands that look at what was decided, on a log that a service has written."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.support import prepared, trained
from tests.support.commands import refused, well
from tests.support.serving import an_example, serving
from tests.support.waiting import until

DECISIONS = 60


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with decisions of today, some of which are reported as fraud."""
    directory = trained.project(tmp_path_factory.mktemp("monitored"))
    key = well("keys", "create", "shop", "--scope", "admin", "--expires", "30d", cwd=directory).out.strip()
    with serving(directory) as service, service.client(key) as client:
        example = an_example(client)
        for number in range(DECISIONS):
            now = datetime.now(UTC).isoformat(timespec="microseconds")
            sent = example | {"transaction_id": f"t{number}", "event_time": now}
            assert client.post("/v1/predict", json=sent).status_code == 200
            report = {"transaction_id": f"t{number}", "is_fraud": number % 3 == 0}
            assert client.post("/v1/labels", json=report).status_code == 200
        text = client.get("/metrics").text
        assert re.search(r'fraud_label_reports_total\{verdict="fraud"\} 20\.0', text)
    return directory


@pytest.fixture
def monitor(project: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [*prepared.command(), "monitor", "--port", "0", "--every", "1s"]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"Metrics: (http://127\.0\.0\.1:\d+/metrics)", process.stdout.readline())
            assert found is not None
            yield process, found[1]
        finally:
            process.kill()


def test_the_monitor_tells_until_it_is_ended(monitor: tuple[subprocess.Popen[str], str]) -> None:
    process, address = monitor
    ready = address.replace("/metrics", "/health/ready")
    with httpx.Client(verify=False) as client:  # noqa: S501 - loopback
        until(lambda: client.get(ready).status_code == 200)
        text = client.get(address).text
        for task in ("drift", "performance", "keys", "certificates", "replicas"):
            assert f'fraud_monitor_run_timestamp_seconds{{task="{task}"}}' in text
            assert f'fraud_monitor_failures_total{{task="{task}"}} 0.0' in text
        assert 'fraud_api_key_expiry_timestamp_seconds{key="shop"}' in text
        first = float(re.search(r'run_timestamp_seconds\{task="keys"\} (\S+)', text)[1])  # type: ignore[index]
        until(lambda: float(re.search(r'timestamp_seconds\{task="keys"\} (\S+)', client.get(address).text)[1]) > first)  # type: ignore[index]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_one_look_prints_what_it_found(project: Path) -> None:
    done = well("monitor", "--once", cwd=project)
    assert "fraud_monitor_run_timestamp_seconds" in done.out


def test_a_job_that_fails_is_named_and_the_exit_code_says_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUDML_CERTIFICATES", "there-is-none.pem")
    assert "not everything could be found" in refused("monitor", "--once", cwd=project)


def test_what_was_decided_is_looked_at_from_every_side(project: Path) -> None:
    drift = well("drift", "--json", "--report", "pages", cwd=project).json
    assert (drift["verdict"], drift["rows_now"]) == ("unknown", DECISIONS)
    performance = well("performance", "--json", "--report", "pages", cwd=project).json
    assert performance["feed"]["reports"] == DECISIONS
    week = well("report", "--json", "--out", "pages", cwd=project).json
    assert week["headline"]
    assert {path.name for path in (project / "pages").iterdir()} >= {"drift.html", "performance.html", "weekly.html"}
    this_week = datetime.now(UTC).strftime("%G-W%V")
    week = well("report", "--week", this_week, "--json", "--out", "pages", cwd=project).json
    both = [week[name] for name in ("this", "before")]  # in case that Monday has begun meanwhile
    assert sum(each["transactions"] for each in both) == DECISIONS
    assert sum(each["frauds"] for each in both) == DECISIONS // 3
    assert "is no week" in refused("report", "--week", "48", cwd=project)
    assert "longer than nothing" in refused("drift", "--current", "0d", cwd=project)
