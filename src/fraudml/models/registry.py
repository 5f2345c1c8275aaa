"""Port: where bundles are kept as versions of one named model, and which of them serves."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

CHAMPION = "champion"
CHALLENGER = "challenger"


class ModelVersion(msgspec.Struct, frozen=True):
    """One registered bundle; ``metrics`` are flat and those of the held-back period."""

    version: int
    family: str
    created_at: str
    fingerprint: str
    aliases: tuple[str, ...]
    metrics: dict[str, float]


class Promotion(msgspec.Struct, frozen=True):
    """One change of the champion: when (ISO 8601 UTC), to which version from which, and why."""

    at: str
    version: int
    previous: int | None
    reason: str


class Registry(Protocol):
    """Keeps bundles by version number (1, 2, ...) and names some of them by alias.

    Every call raises ``RegistryError`` when the registry cannot be reached, and ``NotFoundError`` when the version
    or alias named does not exist.
    """

    def register(self, directory: Path, *, report: Path | None = None, aliases: tuple[str, ...] = ()) -> ModelVersion:
        """Store a copy of a bundle (see ``models.bundle``) as the next version and log its run: parameters,
        metrics and lineage from the manifest, and the file ``report`` beside them."""
        ...

    def versions(self) -> list[ModelVersion]:
        """All versions, newest first; empty when nothing was registered yet."""
        ...

    def resolve(self, name: str) -> ModelVersion:
        """The version of an alias (``champion``) or number (``"7"``)."""
        ...

    def fetch(self, version: int) -> Path:
        """A local directory with the bundle of a version; its caller verifies it by loading it.

        Raises ``BundleError`` when the registry answers but its copy is damaged, or no bundle.
        """
        ...

    def promote(self, version: int, reason: str) -> ModelVersion:
        """Make a version the champion; the reason and the previous champion are kept."""
        ...

    def rollback(self, reason: str) -> ModelVersion:
        """Make the champion before this one champion again."""
        ...

    def champions(self) -> list[Promotion]:
        """Every change of the champion, oldest first."""
        ...
