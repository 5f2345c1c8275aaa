"""Port: where bundles are kept as versions of one named model, and the rollout document, which says what serves."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from fraudml.models.rollout import Rollout

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


class Registry(Protocol):
    """Keeps bundles by version number (1, 2, ...) and names some of them by alias. ``champion`` is the version that the
    rollout document names; nothing else makes one.

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

    def kept(self, version: int) -> Path | None:
        """The local copy of a version that was fetched before, where there is one; asks nobody."""
        ...

    def rollouts(self) -> list[Rollout]:
        """Every revision of the rollout document, oldest first; the last one says what serves."""
        ...

    def revise(self, rollout: Rollout) -> Rollout:
        """Store the next revision, made from the last one (whose ``revision`` it has), and return it with its number.

        Raises ``ConflictError`` when another one has been stored since: what was to be changed is not what is there.
        The aliases ``champion`` and ``challenger`` follow.
        """
        ...

    def delete(self, version: int) -> None:
        """Delete a version and its files. Its number is not given again."""
        ...

    def close(self) -> None:
        """Let go of what it holds; what is under way may fail. It can be asked again."""
        ...
