"""A stream over TLS: with certificates on both sides, or with a login; and what is said to who may not come in."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import prepared, trained
from tests.support.commands import refused, well
from tests.support.servers.kafka_secure import Files, certificates, secure_kafka
from tests.support.streaming import SESSION_MS
from tests.support.waiting import until

ROWS = 20
LOGIN = ("risk", "a-secret-of-the-broker")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.project(tmp_path_factory.mktemp("project"))


def configure(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"FRAUDML_KAFKA_{name.upper()}", str(value))


def lag(home: Path) -> int:
    return sum(place["lag"] for place in well("stream", "status", "--json", cwd=home).json["lag"])


def test_all_commands_log_in_over_tls(files: Files, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with secure_kafka(files, dict([LOGIN])) as servers:
        name, password = LOGIN
        configure(
            monkeypatch,
            bootstrap_servers=servers,
            security_protocol="sasl_ssl",
            ssl_ca_location=files.ca,
            sasl_username=name,
            sasl_password=password,
            session_timeout_ms=SESSION_MS,
        )
        well("stream", "init", cwd=home)
        assert well("replay", "tx.csv", "--limit", str(ROWS), "--no-labels", "--json", cwd=home).json["sent"] == ROWS
        worker = subprocess.Popen(
            [*prepared.command(), "worker", "--id", "a", "--port", "0", "--history", ""],
            cwd=home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: lag(home) == 0, every_s=0.5)
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        configure(monkeypatch, sasl_password="another")
        said = refused("stream", "status", cwd=home)
        assert "FRAUDML_KAFKA_SASL" in said
        assert "another" not in said


def test_both_sides_show_certificates(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with secure_kafka(files, mutual=True) as servers:
        configure(monkeypatch, bootstrap_servers=servers, security_protocol="ssl", ssl_ca_location=files.ca)
        said = refused("stream", "init", cwd=tmp_path)
        assert "FRAUDML_KAFKA_SSL_CERTIFICATE_LOCATION" in said
        configure(monkeypatch, ssl_certificate_location=files.certificate, ssl_key_location=files.key)
        well("stream", "init", cwd=tmp_path)
        configure(monkeypatch, ssl_ca_location=files.key.with_name("own.pem"))
        assert "FRAUDML_KAFKA_SSL_CA_LOCATION" in refused("stream", "status", cwd=tmp_path)
