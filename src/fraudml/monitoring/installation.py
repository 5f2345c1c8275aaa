"""What ends or stands still in an installation while nothing fails yet: keys, certificates, backups, replicas."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fraudml.decisions.keys import ApiKey
from fraudml.errors import ConfigError, MissingExtra
from fraudml.monitoring.catalogue import MOST_KEYS
from fraudml.monitoring.monitor import Job


def jobs(
    keys: Callable[[], Iterable[ApiKey]],
    certificates: Iterable[Path],
    backup: Path | None,
    replicas: Callable[[], Mapping[str, float]],
) -> dict[str, Job]:
    """One for each, so that what cannot be found hides none of the others. ``replicas``: seconds that each replica of
    the database is behind."""
    ends, certified = "fraud_api_key_expiry_timestamp_seconds", "fraud_certificate_expiry_timestamp_seconds"
    behind, old = "fraud_replication_lag_seconds", "fraud_backup_age_seconds"
    found = {
        "keys": Job((ends,), lambda: {ends: ends_of_keys(keys())}),
        "certificates": Job((certified,), lambda: {certified: {(str(path),): end_of(path) for path in certificates}}),
        "replicas": Job((behind,), lambda: {behind: {(name,): lag_s for name, lag_s in replicas().items()}}),
    }
    if backup is not None:
        found["backup"] = Job((old,), lambda: {old: {(): lambda: age_s(backup)}})
    return found


def ends_of_keys(keys: Iterable[ApiKey]) -> dict[tuple[str, ...], float]:
    """When the keys end that are valid and have an end, in seconds since 1970, the first ones to end first."""
    ending = [
        (key.expires_at_us, key.name)
        for key in keys
        if key.expires_at_us is not None and key.revoked_at_us is None and not key.expired
    ]
    return {(name,): end_us / 1e6 for end_us, name in sorted(ending)[:MOST_KEYS]}


def end_of(path: Path) -> float:
    """When the first of the certificates in a PEM file ends, in seconds since 1970; raises ``ConfigError``."""
    try:
        from cryptography import x509
    except ImportError:
        raise MissingExtra("monitor") from None
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no certificate in PEM format"
        raise ConfigError(f"the certificate {path} cannot be read: {reason}") from None
    return min(certificate.not_valid_after_utc for certificate in found).timestamp()


def age_s(marker: Path) -> float:
    """Seconds since a file was written; infinite where there is none.

    >>> age_s(Path("no such file"))
    inf
    """
    try:
        return max(0.0, time.time() - marker.stat().st_mtime)
    except OSError:
        return math.inf
