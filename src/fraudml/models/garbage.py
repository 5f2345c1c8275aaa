"""Which registered versions nothing refers to."""

from __future__ import annotations

from collections.abc import Iterable

from fraudml.models.registry import ModelVersion
from fraudml.models.rollout import Rollout


def unreferenced(
    versions: Iterable[ModelVersion], history: Iterable[Rollout], decided: Iterable[str], keep: int
) -> list[ModelVersion]:
    """The versions that may be deleted, newest first.

    Not those that a revision of the rollout document names (it may be gone back to), that a decision or a shadow score
    names (it may have to be replayed), that have an alias, nor the ``keep`` newest.
    """
    needed = {str(version) for rollout in history for version in rollout.versions} | set(decided)
    newest_first = sorted(versions, key=lambda version: -version.version)
    return [each for each in newest_first[keep:] if str(each.version) not in needed and not each.aliases]
