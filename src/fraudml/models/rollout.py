"""The rollout document: which version is champion, and which challengers take part in an experiment.

It lives in the registry as a sequence of revisions that are never changed: the last one says what serves, all of them
are the audit trail. Every change is made from the last revision, and is refused when another one was faster.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from fraudml.errors import ConfigError
from fraudml.models.assignment import PARTS, Assignment, Slots, allot, size
from fraudml.models.rollout_guardrails import Guardrails

LONGEST_REASON = 2_000
MOST_CHALLENGERS = 8
MOST_EXPLORED = 0.05  # of the would-be declines: each is a fraud more likely than not


class Mode(StrEnum):
    """What challengers do."""

    canary = "canary"  # decide on their share; undone by itself when one is worse
    ab = "ab"  # decide on their share, to be compared; undone by itself only when one fails or is slow
    shadow = "shadow"  # score their share beside the champion, which decides on everything


class Kind(StrEnum):
    """What a revision changed."""

    promote = "promote"
    rollback = "rollback"
    start = "start"
    set = "set"
    abort = "abort"
    breach = "breach"  # an abort by a guardrail


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who changed what, when (ISO 8601 UTC) and why."""

    kind: Kind
    at: str
    by: str
    reason: str


class Challenger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version and its slots of the assignment's line (see :mod:`fraudml.models.assignment`)."""

    version: int
    slots: Slots

    @property
    def share(self) -> float:
        """The share of all entities that is this challenger's."""
        return size(self.slots) / PARTS

    @property
    def arm(self) -> str:
        """The name of its arm in decisions and metrics."""
        return f"challenger-{self.version}"


class Exploration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Would-be declines that are let through, because a declined transaction has no honest label.

    ``share`` of them, at most :data:`MOST_EXPLORED`, and none of more than ``most_minor`` (minor units). They are drawn
    by ``salt``: who could draw himself would know which of his transactions pass.
    """

    share: float
    most_minor: int | None = None
    salt: str = ""

    def check(self) -> Exploration:
        """Return self, or raise ConfigError."""
        if not 0 < self.share <= MOST_EXPLORED:
            raise ConfigError(f"the share of explored declines must be above 0 and at most {MOST_EXPLORED:.0%}")
        if self.most_minor is not None and self.most_minor < 0:
            raise ConfigError("the largest explored amount must not be negative")
        return self


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Challengers beside the champion. ``entity``: whose keys are assigned, by ``salt``; ``None`` is the transaction's
    id. It started at ``since_us`` (microseconds UTC), with the first revision after ``after_revision``. Without
    ``guardrails`` nothing ends it but people."""

    mode: Mode
    challengers: tuple[Challenger, ...]
    entity: str | None
    salt: str
    since_us: int
    guardrails: Guardrails | None = Guardrails()
    after_revision: int = 0

    @property
    def champion_share(self) -> float:
        """The share of all entities that no challenger decides on."""
        return 1.0 if self.mode is Mode.shadow else 1 - sum(size(c.slots) for c in self.challengers) / PARTS

    def assignment(self) -> Assignment:
        """Which challenger a key belongs to."""
        return Assignment(self.salt, [challenger.slots for challenger in self.challengers])


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One revision. ``revision`` is the number that the registry gave it, 0 before."""

    champion: int
    change: Change
    experiment: Experiment | None = None
    exploration: Exploration | None = None
    revision: int = 0

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions that have to be served."""
        challengers = self.experiment.challengers if self.experiment else ()
        return (self.champion, *(challenger.version for challenger in challengers))


def check(rollout: Rollout) -> Rollout:
    """Return a document that can be served, or raise ConfigError: it may have been written by hand."""
    experiment = rollout.experiment
    if rollout.exploration is not None:
        rollout.exploration.check()
    if experiment is None:
        return rollout
    versions = rollout.versions
    if len(set(versions)) < len(versions):
        raise ConfigError("a version is champion or challenger, and only once")
    if not 1 <= len(experiment.challengers) <= MOST_CHALLENGERS:
        raise ConfigError(f"an experiment has 1 to {MOST_CHALLENGERS} challengers")
    taken = [challenger.slots for challenger in experiment.challengers]
    if experiment.mode is not Mode.shadow:
        taken = [tuple(sorted(slot for slots in taken for slot in slots))]
    for slots in taken:
        edges = [edge for slot in slots for edge in slot]
        if (
            edges != sorted(edges)
            or any(a >= b for a, b in slots)
            or (edges and not 0 <= edges[0] < edges[-1] <= PARTS)
        ):
            raise ConfigError("the slots of the challengers are not apart, or not on the line")
    return rollout


class Plan(msgspec.Struct, frozen=True):
    """An experiment to start: the share of each challenger, by version; the rest as in :class:`Experiment`."""

    mode: Mode
    shares: Mapping[int, float]
    entity: str | None = None
    guardrails: Guardrails | None = Guardrails()


def started(last: Rollout, plan: Plan, change: Change, since_us: int) -> Rollout:
    """The revision that starts an experiment."""
    if last.experiment is not None:
        raise ConfigError("a rollout is under way: promote or abort it first, or change its shares")
    slots = _slots(plan.mode, {}, plan.shares)
    challengers = tuple(Challenger(version, slots[version]) for version in plan.shares)
    salt = secrets.token_hex(8)
    experiment = Experiment(plan.mode, challengers, plan.entity, salt, since_us, plan.guardrails, last.revision)
    return _next(last, change, experiment=experiment)


def resized(last: Rollout, shares: Mapping[int, float], change: Change) -> Rollout:
    """The revision with other shares of some challengers."""
    experiment = running(last)
    held = {challenger.version: challenger.slots for challenger in experiment.challengers}
    strangers = sorted(set(shares) - set(held))
    if strangers:
        raise ConfigError(f"version {strangers[0]} is no challenger of the rollout that is under way")
    wanted = {version: size(slots) / PARTS for version, slots in held.items()} | dict(shares)
    slots = _slots(experiment.mode, held, wanted)
    challengers = tuple(Challenger(version, slots[version]) for version in wanted)
    experiment = msgspec.structs.replace(experiment, challengers=challengers)
    return _next(last, change, experiment=experiment)


def explored(last: Rollout, exploration: Exploration | None, change: Change) -> Rollout:
    """The revision that explores would-be declines, or no longer does."""
    if exploration is not None:
        held = last.exploration.salt if last.exploration else ""
        exploration = msgspec.structs.replace(exploration, salt=held or secrets.token_hex(8))
    return _next(last, change, exploration=exploration)


def ended(last: Rollout, change: Change) -> Rollout:
    """The revision without the experiment: the champion decides on everything again."""
    running(last)
    return _next(last, change, experiment=None)


def promoted(last: Rollout | None, version: int, change: Change) -> Rollout:
    """The revision with another champion; an experiment ends with it."""
    if last is None:
        return Rollout(version, _checked(change))
    return _next(last, change, champion=version, experiment=None)


def running(last: Rollout | None) -> Experiment:
    """The experiment that is under way; raises ConfigError when there is none."""
    if last is None or last.experiment is None:
        raise ConfigError("no rollout is under way; start one with: fraudml rollout start")
    return last.experiment


def way_to_champion(history: list[Rollout]) -> list[int]:
    """The champions that led to the present one, without detours that were taken back; oldest first.

    A promotion to a version of the way itself is a way back and takes what came after it along.
    """
    way: list[int] = []
    for version in [entry.champion for entry in history]:
        if way and way[-1] == version:
            continue
        if version in way:
            del way[way.index(version) :]
        way.append(version)
    return way


def _next(last: Rollout, change: Change, **changes: Any) -> Rollout:
    return check(msgspec.structs.replace(last, change=_checked(change), **changes))


def _checked(change: Change) -> Change:
    reason = " ".join(change.reason.split())
    if not reason:
        raise ConfigError("a change of what serves needs a reason; it is kept in the history")
    if len(reason) > LONGEST_REASON:
        raise ConfigError(f"the reason is too long; {LONGEST_REASON:,} characters are kept")
    return msgspec.structs.replace(change, reason=reason)


def _slots(mode: Mode, held: Mapping[int, Slots], shares: Mapping[int, float]) -> dict[int, Slots]:
    parts = {version: _parts(share) for version, share in shares.items()}
    if mode is Mode.shadow:  # nobody's traffic is taken, so shares may overlap
        return {version: ((0, count),) if count else () for version, count in parts.items()}
    if sum(parts.values()) > PARTS:
        raise ConfigError(f"the shares of the challengers add up to {sum(parts.values()) / PARTS:.4%}, above 100 %")
    return allot(held, parts)


def _parts(share: float) -> int:
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise ConfigError("a share is between 0 and 100 %")
    return round(share * PARTS)
