"""The rollout document as this machine saw it last, so that a service can start while the registry is gone."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path

import msgspec

from fraudml.errors import ConfigError
from fraudml.models.rollout import Rollout, check
from fraudml.settings import Settings

logger = logging.getLogger(__name__)


class _Seen(msgspec.Struct, frozen=True):
    registry: str  # a hash of its URL, which may hold credentials
    rollout: Rollout


class LastKnown:
    """Kept in ``<home>/bundles/<model>/rollout.json``, beside the copies of the bundles that it names."""

    def __init__(self, settings: Settings) -> None:
        self._path: Path = settings.home / "bundles" / settings.model_name / "rollout.json"
        self._registry = hashlib.sha256((settings.registry_url or "").encode()).hexdigest()
        self._written: Rollout | None = None

    def write(self, rollout: Rollout) -> None:
        """Keep a document; a disk that does not take it is told of, and goes on serving."""
        if rollout == self._written:
            return
        draft = self._path.with_name(f".rollout.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(msgspec.json.encode(_Seen(self._registry, rollout)))
            draft.replace(self._path)
        except OSError as error:
            logger.warning("the rollout document cannot be kept for a start without the registry: %s", error)
            with suppress(OSError):
                draft.unlink(missing_ok=True)
        self._written = rollout

    def read(self) -> Rollout | None:
        """The document of this registry, if there is one that can be read."""
        try:
            seen = msgspec.json.decode(self._path.read_bytes(), type=_Seen)
            return check(seen.rollout) if seen.registry == self._registry else None
        except (OSError, msgspec.MsgspecError, RecursionError, ConfigError):
            return None
