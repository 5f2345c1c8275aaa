"""Decisions and label reports of two arms as arrays, for both the guardrails and the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
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
_entities = msgspec.json.Decoder(dict[str, Any])


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


def transaction_ids(batch: pa.RecordBatch, arms: Arms) -> list[str]:
    """The ids of the rows that :func:`read` keeps, in the same order."""
    return [str(name) for name in batch.column("transaction_id").filter(pa.array(_kept(batch, arms))).to_pylist()]


def read(batch: pa.RecordBatch, arms: Arms, costs: Costs, decimals: int) -> Rows:
    """The rows of the two arms in a batch of decisions, or of label reports joined with their decisions."""
    batch = batch.filter(pa.array(_kept(batch, arms)))
    trials = _distinct(batch.column("trial"), _trial.decode)
    share = np.array([trial.share for trial in trials], np.float64)
    explore = np.array([np.nan if trial.explore is None else trial.explore for trial in trials], np.float64)
    let_through = np.array([trial.let_through for trial in trials], np.bool_)
    level = np.array(_distinct(batch.column("action"), LEVELS.__getitem__), np.int8)
    level[let_through] = DECLINE
    explored = (level == DECLINE) & ~np.isnan(explore)
    failed = _distinct(batch.column("degraded"), lambda text: _failures(_degraded.decode(text)))
    challenger = np.array(batch.column("arm").to_pylist(), np.object_) == arms.challenger
    alone, both = (np.array([kind[i] for kind in failed], np.bool_) for i in (0, 1))
    amount = _floats(batch.column("amount_minor")) / 10.0**decimals
    return Rows(
        challenger=challenger,
        key=_keys(batch, arms.entity),
        share=share,
        revision=np.array([trial.revision for trial in trials], np.int64),
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


def _kept(batch: pa.RecordBatch, arms: Arms) -> NDArray[np.bool_]:
    arm = np.array(batch.column("arm").to_pylist(), np.object_)
    revision = np.array(_distinct(pc.fill_null(batch.column("trial"), ""), _revision), np.int64)
    last = np.iinfo(np.int64).max if arms.last_revision is None else arms.last_revision
    in_trial = (revision > arms.after_revision) & (revision <= last)
    return np.asarray(((arm == arms.champion) | (arm == arms.challenger)) & in_trial, np.bool_)


def _revision(trial: str) -> int:
    return _trial.decode(trial).revision if trial else -1


def _failures(degraded: list[str]) -> tuple[bool, bool]:
    """Whether the challenger gave no score, and whether no model did."""
    return Degradation.challenger.value in degraded, Degradation.model.value in degraded


def _keys(batch: pa.RecordBatch, entity: str) -> NDArray[np.int64]:
    """A stable hash of each row's entity; not the one that assigns arms, which must tell nothing of this one."""
    found = []
    ids = batch.column("transaction_id").to_pylist()
    for transaction_id, text in zip(ids, batch.column("entities").to_pylist(), strict=True):
        value = _entities.decode(text).get(entity)
        name = f"t{transaction_id}" if value is None else f"e{value}"
        found.append(int.from_bytes(blake2b(name.encode(), digest_size=8, person=b"rollout").digest(), "little") >> 1)
    return np.array(found, np.int64)


def _distinct(column: pa.Array, meaning: Callable[[str], T]) -> list[T]:
    """The meaning of each text; a text is decoded once, however often it is there."""
    encoded = column.dictionary_encode()
    meanings = [meaning(text) for text in encoded.dictionary.to_pylist()]
    return [meanings[code] for code in encoded.indices.to_pylist()]


def _floats(column: pa.Array) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _integers(column: pa.Array) -> NDArray[np.int64]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
