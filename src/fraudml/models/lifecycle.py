"""Changes of what serves, each a new revision of the rollout document in the registry.

A champion is changed by nothing else. A change is made from the last revision, so of two people at once one is refused
(``ConflictError``) and has to look again. Reasons are required, and kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from msgspec import UNSET, UnsetType

from fraudml.errors import ConfigError, NotFoundError, RegistryError
from fraudml.models import rollout
from fraudml.models.bundle import now_iso
from fraudml.models.registry import Registry
from fraudml.models.rollout import Change, Exploration, Kind, Plan, Rollout


def current(registry: Registry) -> Rollout:
    """The last revision; raises NotFoundError before the first champion."""
    history = registry.rollouts()
    if not history:
        raise NotFoundError("there is no champion yet; train one with: fraudml train")
    return history[-1]


def alone(version: int) -> Rollout:
    """A document that is in no registry: this version serves, whatever the champion is."""
    return Rollout(version, Change(Kind.promote, "", "", "served by its number or alias"))


def promote(registry: Registry, version: int, reason: str, by: str = "") -> Rollout:
    """Make a version the champion; an experiment that is under way ends with it."""
    registry.resolve(str(version))
    history = registry.rollouts()
    last = history[-1] if history else None
    return registry.revise(rollout.promoted(last, version, _change(Kind.promote, reason, by)))


def rollback(registry: Registry, reason: str, by: str = "", *, to: int | None = None) -> Rollout:
    """Make the champion before this one champion again, or an earlier one; repeated, it walks further back."""
    history = registry.rollouts()
    present = {version.version for version in registry.versions()}
    way = [version for version in rollout.way_to_champion(history) if version in present]
    former = {entry.champion for entry in history} & present
    if to is not None and to not in former:
        raise RegistryError(f"version {to} has never been champion: promote it instead")
    if to is None and len(way) < 2:
        raise RegistryError("there is no earlier champion to go back to")
    target = way[-2] if to is None else to
    return registry.revise(rollout.promoted(history[-1], target, _change(Kind.rollback, reason, by)))


def start(registry: Registry, plan: Plan, reason: str, by: str = "") -> Rollout:
    """Start an experiment beside the champion."""
    last = current(registry)
    if last.champion in plan.shares:
        raise ConfigError(f"version {last.champion} is the champion: it cannot be its own challenger")
    for version in plan.shares:
        registry.resolve(str(version))
    since_us = time.time_ns() // 1_000
    return registry.revise(rollout.started(last, plan, _change(Kind.start, reason, by), since_us))


def adjust(
    registry: Registry,
    reason: str,
    by: str = "",
    *,
    shares: Mapping[int, float] | None = None,
    exploration: Exploration | UnsetType | None = UNSET,
) -> Rollout:
    """Give challengers other shares: only entities that have to change their arm do. Let would-be declines through
    from now on, or none. What is not given stays; both are one revision."""
    document, change = current(registry), _change(Kind.set, reason, by)
    if shares:
        document = rollout.resized(document, shares, change)
    if exploration is not UNSET:
        document = rollout.explored(document, exploration, change)
    return registry.revise(document)


def abort(registry: Registry, reason: str, by: str = "") -> Rollout:
    """End the experiment; the champion decides on everything again."""
    return registry.revise(rollout.ended(current(registry), _change(Kind.abort, reason, by)))


def end_breached(registry: Registry, breached: Rollout, reason: str, by: str = "") -> None:
    """End the experiment of a document because of a guardrail, unless it is over already."""
    last = current(registry)
    if last.experiment and breached.experiment and last.experiment.salt == breached.experiment.salt:
        registry.revise(rollout.ended(last, _change(Kind.breach, _shortened(reason), by)))


def _shortened(reason: str) -> str:
    """A reason that a machine gave, as long as the history keeps it: no length may be in the way of an end.

    >>> _shortened("a  b "), len(_shortened("x" * 3_000))
    ('a b', 2000)
    """
    text = " ".join(reason.split())
    return text if len(text) <= rollout.LONGEST_REASON else f"{text[: rollout.LONGEST_REASON - 1].rstrip()}…"


def _change(kind: Kind, reason: str, by: str) -> Change:
    return Change(kind, now_iso(), by, reason)
