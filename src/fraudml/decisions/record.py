"""The durable record of one scored transaction, and of one label report."""

from __future__ import annotations

from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudml.events.label import Label
from fraudml.events.transaction import Transaction

CHAMPION = "champion"  # the arm of a model that is not part of an experiment


class Action(StrEnum):
    """What to do with a transaction."""

    approve = "approve"
    review = "review"
    decline = "decline"


class Degradation(StrEnum):
    """A dependency that failed while a decision was made, and what was done instead."""

    online_store = "online_store"  # scored without history: every state feature counted as missing
    model = "model"  # no score; the action is a review
    challenger = "challenger"  # the challenger gave no score; the champion decided in its place
    registry = "registry"  # not asked for a newer model: the one that is loaded decided
    model_server = "model_server"  # scored by the local copy of the same model
    decision_log = "decision_log"  # kept in the local journal until the log takes it


# What makes a score worth less, or leaves none; any other degradation does not touch it, nor the action.
TOUCHES_SCORE = frozenset({Degradation.online_store, Degradation.model})


class Timings(msgspec.Struct, frozen=True, gc=False):
    """How long the decision's batch took, in microseconds, and how many transactions were in it.

    The commit is not here: it happens after the record is made. The metrics have it.
    """

    batch: int
    state_us: int
    model_us: int


class Trial(msgspec.Struct, frozen=True, gc=False):
    """How a decision took part in an experiment; what its measurement has to know.

    ``revision``: of the rollout document that assigned the arm, 0 where none did; ``share``: the share of all entities
    that this arm had then. While would-be declines are explored, each has ``explore``, the probability with which it is
    let through; one that was has ``let_through``: its action is approve, and it counts ``1 / explore`` times in
    estimates.
    """

    revision: int
    share: float
    explore: float | None = None
    let_through: bool = False


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One decision. What a client is answered is a function of this alone, so a retry gets the same bytes.

    ``vector``: the features before the model's float32, little-endian float64 ``[k]`` in ``FeatureSet.input_names``
    order, NaN for missing. ``score``: calibrated probability; ``None`` when the model gave none. ``arrival``: the
    place among all decisions and label reports (see :class:`fraudml.decisions.log.Arrivals`). ``source``: which message
    of a stream it answers, ``topic/partition/offset``. ``entered_us``: since when others could see the transaction in
    online state, where a process ended between that and its decision, which this one made again.
    """

    transaction: Transaction
    vector: bytes
    score: float | None
    action: Action
    model_version: str
    fingerprint: str
    arrival: int
    decided_at_us: int
    timings: Timings
    arm: str = CHAMPION
    late: bool = False
    degraded: tuple[Degradation, ...] = ()
    trial: Trial | None = None
    source: str | None = None
    entered_us: int | None = None

    def features(self) -> NDArray[np.float64]:
        """The logged vector: float64 ``[k]``, read-only."""
        return np.frombuffer(self.vector, dtype="<f8")


class ShadowScore(msgspec.Struct, frozen=True, gc=False):
    """What another model would have said about a decision, which is told by its ``arrival``.

    ``score``: ``None`` when that model gave none. ``model_us``: how long its batch took.
    """

    arrival: int
    model_version: str
    score: float | None
    action: Action
    model_us: int


class LabelReport(msgspec.Struct, frozen=True, gc=False):
    """A label and its ``arrival``: which decisions could know it is told by that number, not by a clock."""

    label: Label
    arrival: int


def pack_vector(vector: NDArray[np.float64]) -> bytes:
    """The bytes of :attr:`Decision.vector`.

    >>> np.frombuffer(pack_vector(np.array([1.0, np.nan])), "<f8").tolist()
    [1.0, nan]
    """
    return vector.astype("<f8", copy=False).tobytes()
