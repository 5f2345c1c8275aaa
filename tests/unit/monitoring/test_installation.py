"""What ends or stands still is told before it fails."""

from __future__ import annotations

import math
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import ConfigError
from fraudml.monitoring import installation
from fraudml.monitoring.monitor import Monitor

DAY = timedelta(days=1)


def certificate(ends: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(ends - 90 * DAY).not_valid_after(ends)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_certificate_of_a_file_that_ends_first_counts(tmp_path: Path) -> None:
    soon = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    path = tmp_path / "chain.pem"
    path.write_bytes(certificate(soon + 300 * DAY) + certificate(soon))
    assert installation.end_of(path) == soon.timestamp()


@pytest.mark.parametrize("content", [b"", b"no certificate", None])
def test_a_file_that_holds_none_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "chain.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"chain\.pem cannot be read"):
        installation.end_of(path)


def test_keys_that_end_are_told_and_those_that_are_over_are_not() -> None:
    _, stays = new_key("stays", [Scope.score])
    _, ends = new_key("ends", [Scope.score], lasts_us=86_400_000_000)
    _, over = new_key("over", [Scope.score], lasts_us=-1)
    assert installation.ends_of_keys([stays, ends, over]) == {("ends",): (ends.expires_at_us or 0) / 1e6}


def test_a_backup_is_as_old_as_its_marker_and_one_that_never_was_is_infinitely_old(tmp_path: Path) -> None:
    marker = tmp_path / "backup"
    assert installation.age_s(marker) == math.inf
    marker.touch()
    an_hour_ago = time.time() - 3_600
    os.utime(marker, (an_hour_ago, an_hour_ago))
    assert 3_600 <= installation.age_s(marker) < 3_660
    ahead = time.time() + 3_600  # of a machine whose clock is wrong
    os.utime(marker, (ahead, ahead))
    assert installation.age_s(marker) == 0


def test_without_anything_to_watch_nothing_is_told() -> None:
    jobs = installation.jobs(lambda: [], [], None, dict)
    assert [value for job in jobs.values() for values in job.run().values() for value in values] == []


def test_a_certificate_that_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    _, ends = new_key("ends", [Scope.score], lasts_us=86_400_000_000)
    jobs = installation.jobs(lambda: [ends], [tmp_path / "none.pem"], tmp_path / "backup", lambda: {"b": 2.0})
    monitor = Monitor(jobs)
    assert not monitor.look()
    text = monitor.text().decode()
    assert 'fraud_monitor_failures_total{task="certificates"} 1.0' in text
    assert 'fraud_api_key_expiry_timestamp_seconds{key="ends"}' in text
    assert 'fraud_replication_lag_seconds{replica="b"} 2.0' in text
    assert "fraud_backup_age_seconds +Inf" in text
