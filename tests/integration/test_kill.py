"""``kill -9`` under load, with the real command: what was acknowledged is there afterwards, and state is right."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.support.commands import refused, well

CLIENTS = 4
ENOUGH = 150  # acknowledged decisions before the service is killed
ADDRESS = re.compile(r"serves on (http://127\.0\.0\.1:\d+)")
START = datetime(2026, 2, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a champion."""
    directory = tmp_path_factory.mktemp("kill")
    well("simulate", "tx.csv", "--rows", "8000", "--customers", "60", "--fraud-rate", "0.05", cwd=directory)
    well("init", "tx.csv", "--yes", cwd=directory)
    well("train", "--family", "logistic_regression", "--json", cwd=directory)
    return directory


class Running:
    """A ``fraudml serve`` that answers, and what it said."""

    def __init__(self, process: subprocess.Popen[str], said: list[str], address: str) -> None:
        self.process = process
        self.said = said
        self.address = address

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers={"X-API-Key": key}, timeout=30, verify=False)  # noqa: S501


@contextmanager
def serving(directory: Path) -> Iterator[Running]:
    """The service, from the moment it says where it listens."""
    command = [sys.executable, "-m", "fraudml", "serve", "--port", "0"]
    with (
        (directory / "serve.err").open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            said: list[str] = []
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.strip())
                if found := ADDRESS.search(line):
                    break
            assert found, (directory / "serve.err").read_text(encoding="utf-8")
            yield Running(process, said, found[1])
        finally:
            process.kill()


def transaction(example: dict[str, Any], client: int, number: int) -> dict[str, Any]:
    """One of a client's transactions; the clients share customers and merchants, so their windows meet."""
    moment = START + timedelta(seconds=7 * number + client)
    return example | {
        "transaction_id": f"live-{client}-{number}",
        "event_time": moment.isoformat(),
        "customer_id": f"customer-{number % 5}",
        "merchant_id": f"merchant-{number % 3}",
        "amount": 10.0 + number,
    }


def test_kill_9_under_load_loses_nothing_that_was_acknowledged(home: Path) -> None:
    key = well("keys", "create", "load", "--scope", "admin", cwd=home).out.strip()
    acknowledged: dict[str, bytes] = {}
    sent: dict[str, dict[str, Any]] = {}
    enough = threading.Event()

    with serving(home) as service:
        with service.client(key) as client:
            document = client.get("/openapi.json").json()
        body = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
        example: dict[str, Any] = body["example"]

        def load(number_of_client: int) -> None:
            with service.client(key) as client:
                for number in range(100_000):
                    row = transaction(example, number_of_client, number)
                    sent[row["transaction_id"]] = row
                    try:
                        answer = client.post("/v1/predict", json=row)
                    except httpx.TransportError:  # killed
                        return
                    assert answer.status_code == 200, answer.text
                    acknowledged[row["transaction_id"]] = answer.content
                    if len(acknowledged) >= ENOUGH:
                        enough.set()

        with ThreadPoolExecutor(CLIENTS) as clients:
            loads = [clients.submit(load, number) for number in range(CLIENTS)]
            assert enough.wait(120)
            service.process.send_signal(signal.SIGKILL)
            for each in loads:
                each.result()
        assert service.process.wait() == -signal.SIGKILL

    with serving(home) as service, service.client(key) as client:  # the killed one's claim is no more
        for name, answer in acknowledged.items():
            assert client.post("/v1/predict", json=sent[name]).content == answer
        for row in (transaction(example, 9, number) for number in range(20)):
            assert client.post("/v1/predict", json=row).status_code == 200
        assert "another fraudml process serves" in refused("serve", "--port", "0", cwd=home)
        service.process.terminate()
        assert service.process.wait(30) == -signal.SIGTERM  # by the signal, as is custom, but in order
    audit = well("features", "audit", "--json", cwd=home).json
    assert audit["decisions"] >= len(acknowledged) + 20
    assert audit["differing"] == 0, audit["examples"]


def test_sigterm_finishes_what_it_was_asked(home: Path) -> None:
    key = well("keys", "create", "term", "--scope", "admin", cwd=home).out.strip()
    with serving(home) as service, service.client(key) as client:
        document = client.get("/openapi.json").json()
        example = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
        rows = [transaction(example, 20, number) for number in range(2_000)]
        raw = msgspec.json.encode({"transactions": rows})
        half = len(raw) // 2

        def slowly() -> Iterator[bytes]:
            yield raw[:half]
            service.process.terminate()  # the request is on its way
            yield raw[half:]

        answer = client.post("/v1/batch-predict", content=slowly())
        assert answer.status_code == 200
        assert answer.json()["scored"] == len(rows)
        assert service.process.wait(30) == -signal.SIGTERM
    assert "Application shutdown complete" in (home / "serve.err").read_text(encoding="utf-8")


def test_a_file_that_is_no_database_is_refused_in_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "broken.db").write_bytes(b"no database" * 1_000)
    monkeypatch.setenv("FRAUDML_DATABASE_URL", f"sqlite:///{home / 'broken.db'}")
    assert "file is not a database" in refused("serve", "--port", "0", cwd=home)
