"""Decisions and label reports of two arms as arrays, for both the guardrails and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraudml.decisions.costs import Costs
from fraudml.decisions.record import Action, Degradation, Trial

T = TypeVar("T")
LEVELS = {action.value: level for level, action in enumerate(Action)}  # 0 approve, 1 review, 2 decline
DECLINE = LEVELS[Action.decline.value]
_trial = msgspec.json.Decoder(Trial)
_degraded = msgspec.json.Decoder(list[str])
_NO_TRIAL = Trial(-1, 1.0)
_HASH = blake2b(digest_size=8, person=b"rollout")


@dataclass(frozen=True)
class Arms:
    """Which rows are compared, and what their assignment was drawn by.

    ``entity``: the entity whose hash chose the arm, and which statistics count as one independent draw; a transaction
    without it stands for itself. ``after_revision``, ``last_revision``: of the rollout document; decisions of that one
    and of earlier ones, or of later ones, belong to other experiments.
    """

    champion: str
    challenger: str
    entity: str
    after_revision: int = 0
    last_revision: int | None = None


@dataclass(frozen=True)
class Rows:
    """Rows of the two arms in the order given, arrays ``[n]``. Rows of other arms, or without a trial, are not here.

    ``key``: int64 hash of the entity. ``share``: of the row's arm, when it was decided. ``level``: the policy's action
    (0 approve, 1 review, 2 decline); one that was let through counts as the decline it would have been. ``amount``: in
    currency units. ``label_weight``: how many transactions this one stands for where labels are needed: 1, for an
    explored decline ``1 / explore`` or 0. ``explored``: a decline whose label can be known. ``failed``: its arm's
    model gave no score. ``arrival``: of the label report, where there is one. ``fraud``: NaN without a label.
    """

    challenger: NDArray[np.bool_]
    key: NDArray[np.int64]
    share: NDArray[np.float64]
    revision: NDArray[np.int64]
    level: NDArray[np.int8]
    score: NDArray[np.float64]
    amount: NDArray[np.float64]
    label_weight: NDArray[np.float64]
    explored: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    batch: NDArray[np.int64]
    model_us: NDArray[np.int64]
    arrival: NDArray[np.int64]
    event_time_us: NDArray[np.int64]
    fraud: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.arrival)

    def take(self, which: NDArray[Any] | slice) -> Rows:
        """Some of the rows: an index, a mask or a slice."""
        return Rows(*(getattr(self, field.name)[which] for field in fields(self)))

    def clipped(self, most: float) -> Rows:
        """The same rows with no amount above ``most``."""
        return replace(self, amount=np.minimum(self.amount, most))

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of at least one part."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Outcomes:
    """The rows of one experiment in a batch, of all its arms: read once, however many challengers are compared.

    ``arm``: the place in ``arms`` of each row's arm, int64 ``[n]``. ``rows``: every arm but the champion's counts as a
    challenger's. ``ids``: of the transactions.
    """

    arms: list[str]
    arm: NDArray[np.int64]
    rows: Rows
    ids: pa.Array

    def between(self, arms: Arms) -> NDArray[np.bool_]:
        """Which rows are of these two arms, bool ``[n]``."""
        return np.array([name in (arms.champion, arms.challenger) for name in self.arms], np.bool_)[self.arm]

    def of(self, arms: Arms) -> Rows:
        """The rows of two arms."""
        which = self.between(arms)
        return self.rows if which.all() else self.rows.take(which)

    def ids_of(self, arms: Arms) -> list[str]:
        """The ids of the rows of two arms, in the same order."""
        return [str(name) for name in self.ids.filter(pa.array(self.between(arms))).to_pylist()]


def read(batch: pa.RecordBatch, arms: Arms, costs: Costs, decimals: int) -> Rows:
    """The rows of the two arms in a batch of decisions, or of label reports joined with their decisions."""
    return read_all(batch, arms, costs, decimals).of(arms)


def read_all(batch: pa.RecordBatch, arms: Arms, costs: Costs, decimals: int) -> Outcomes:
    """The rows of all arms of the experiment; of ``arms`` its challenger is not looked at."""
    trials, trial = _distinct(pc.fill_null(batch.column("trial"), ""), _decoded_trial)
    last = np.iinfo(np.int64).max if arms.last_revision is None else arms.last_revision
    revision = np.array([each.revision for each in trials], np.int64)
    kept = ((revision > arms.after_revision) & (revision <= last))[trial]
    if not kept.all():
        batch, trial = batch.filter(pa.array(kept)), trial[kept]
    names, arm = _distinct(batch.column("arm"), str)
    explore = np.array([np.nan if each.explore is None else each.explore for each in trials], np.float64)[trial]
    let_through = np.array([each.let_through for each in trials], np.bool_)[trial]
    actions, action = _distinct(batch.column("action"), LEVELS.__getitem__)
    level = np.where(let_through, np.int8(DECLINE), np.array(actions, np.int8)[action])
    explored = (level == DECLINE) & ~np.isnan(explore)
    kinds, kind = _distinct(batch.column("degraded"), lambda text: _failures(_degraded.decode(text)))
    challenger = np.array([name != arms.champion for name in names], np.bool_)[arm]
    alone, both = (np.array([each[i] for each in kinds], np.bool_)[kind] for i in (0, 1))
    amount = _floats(batch.column("amount_minor")) / 10.0**decimals
    rows = Rows(
        challenger=challenger,
        key=_keys(batch, arms.entity),
        share=np.array([each.share for each in trials], np.float64)[trial],
        revision=revision[trial],
        level=level,
        score=_floats(batch.column("score")),
        amount=np.nan_to_num(np.abs(amount), nan=costs.amount_without_column),
        label_weight=np.where(explored, np.where(let_through, 1 / np.where(explored, explore, 1.0), 0.0), 1.0),
        explored=explored,
        failed=both | (challenger & alone),
        batch=_integers(batch.column("batch")),
        model_us=_integers(batch.column("model_us")),
        arrival=_integers(pc.coalesce(batch.column("label_arrival"), batch.column("arrival"))),
        event_time_us=_integers(batch.column("event_time_us")),
        fraud=_floats(batch.column("is_fraud").cast(pa.int8())),
    )
    return Outcomes(names, arm, rows, batch.column("transaction_id"))


def _decoded_trial(text: str) -> Trial:
    """The trial of a decision; one that had none is in no experiment."""
    return _trial.decode(text) if text else _NO_TRIAL


def _failures(degraded: list[str]) -> tuple[bool, bool]:
    """Whether the challenger gave no score, and whether no model did."""
    return Degradation.challenger.value in degraded, Degradation.model.value in degraded


def _keys(batch: pa.RecordBatch, entity: str) -> NDArray[np.int64]:
    """A stable hash of each row's entity; not the one that assigns arms, which must tell nothing of this one."""
    ids = batch.column("transaction_id").to_pylist()
    values = _values_of(entity).decode(f"[{','.join(batch.column('entities').to_pylist())}]")
    names = [
        f"t{transaction_id}" if held.value is None else f"e{held.value}"
        for transaction_id, held in zip(ids, values, strict=True)
    ]
    hashes = {name: _hash(name) for name in set(names)}
    return np.array([hashes[name] for name in names], np.int64)


def _hash(name: str) -> int:
    digest = _HASH.copy()  # half the time of a new one
    digest.update(name.encode())
    return int.from_bytes(digest.digest(), "little") >> 1


@cache
def _values_of(entity: str) -> msgspec.json.Decoder[list[Any]]:
    """Reads one value (``.value``, None where there is none) of each object in a list, and passes over the others."""
    one = msgspec.defstruct("One", [("value", Any, None)], rename={"value": entity}, gc=False)
    return msgspec.json.Decoder(list[one])  # type: ignore[valid-type]


def _distinct(column: pa.Array, meaning: Callable[[str], T]) -> tuple[list[T], NDArray[np.int64]]:
    """The meaning of each text, which is decoded once however often it is there, and the place there of each row's."""
    encoded = column.dictionary_encode()
    return [meaning(text) for text in encoded.dictionary.to_pylist()], _integers(encoded.indices)


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _integers(column: pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
