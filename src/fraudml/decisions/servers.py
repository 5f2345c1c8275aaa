"""What is known of a server that decisions depend on: facts that adapters find out and ``fraudml doctor`` judges."""

from __future__ import annotations

import msgspec


class Trouble(msgspec.Struct, frozen=True):
    """Why a backend cannot be asked at all, and what to do about it."""

    why: str
    do: str


class Trial(msgspec.Struct, frozen=True):
    """Something that was tried for real and undone again; ``problem`` is why it failed. ``needed``: by services as they
    are now; what is not, an upgrade may need."""

    what: str
    problem: str | None = None
    needed: bool = True


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A backend that answers. Nothing here is secret.

    ``place``: host, port and database. ``latency_ms``: median of several round trips. ``ahead_ms``: how far its clock
    is ahead of ours, give or take ``unsure_ms``; ``None`` where it has no clock of its own. ``details``: what only
    this product has, in its own words.
    """

    place: str
    product: str
    version: str
    latency_ms: float
    ahead_ms: float | None = None
    unsure_ms: float = 0.0
    trials: tuple[Trial, ...] = ()
    details: dict[str, str] = {}
