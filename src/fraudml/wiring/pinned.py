"""Models by version number, whatever serves now: to look at what they decided once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fraudml.errors import NotFoundError
from fraudml.settings import Settings
from fraudml.wiring.models import registry

if TYPE_CHECKING:
    from fraudml.decisions.model import Model


def pinned(settings: Settings) -> Callable[[str], Model]:
    """A call that gives the verified model of a version, with the bundle's own features and thresholds.

    It raises ``NotFoundError``, ``BundleError`` and ``RegistryError``. Models have no prediction cache.
    """
    from fraudml.decisions.model import Model
    from fraudml.decisions.policy import Policy, WhenDegraded
    from fraudml.models import bundle

    models = registry(settings)

    def load(version: str) -> Model:
        if not version.isdecimal():
            raise NotFoundError(f"there is no model version {version!r}: versions are numbers")
        loaded = bundle.load(models.fetch(int(version)), version=version)
        return Model(loaded, Policy.of(loaded.manifest.thresholds, WhenDegraded(settings.when_degraded)))

    return load
