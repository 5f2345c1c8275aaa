"""Copies a decision log into another one, of whatever kind, and proves that nothing was lost."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from fraudml.decisions.log import ARRIVAL, DecisionLog
from fraudml.decisions.record import Decision, LabelReport
from fraudml.errors import ConflictError
from fraudml.events.label import Label
from fraudml.events.schema import IS_FRAUD, KNOWN_AT, TRANSACTION_ID
from fraudml.events.source import Progress

_encode = msgspec.msgpack.Encoder().encode


class Contents(msgspec.Struct, frozen=True):
    """How much is in a log, and a SHA-256 over all of it in order of arrival (keys by name)."""

    decisions: int
    labels: int
    keys: int
    sha256: str


def copy(source: DecisionLog, target: DecisionLog, progress: Progress | None = None) -> int:
    """Copy transactions with their decisions, label reports and keys; returns the number of decisions copied now.

    May be interrupted at any moment and run again: decisions go on behind the last one that the target has, reports
    and keys that it has are left out. Raises ``ConflictError`` when the target holds something else.
    """
    _refuse_strangers(source, target)
    copied = 0
    for batch in source.decisions(after=target.last_arrival(labels=False)):
        stand = target.append(batch)
        for decision in batch:
            other = stand.get(decision.transaction.transaction_id, decision)
            if other != decision:
                raise _stranger(decision)
        copied += len(batch)
        if progress:
            progress(copied, None)
    for reports in _reports(source):
        target.append_labels(reports)
    have = {key.name: key for key in target.keys.all()}
    for key in source.keys.all():
        if key.name not in have:
            target.keys.add(key)
        elif have[key.name].token_hash != key.token_hash:
            raise ConflictError(f"the target has another API key named {key.name!r}: migrate into an empty database")
        elif key.revoked_at_us is not None:
            target.keys.revoke(key.name)
    return copied


def contents(log: DecisionLog, progress: Progress | None = None) -> Contents:
    """Count and hash everything in a log; reads all of it, in bounded memory."""
    digest = hashlib.sha256()
    decisions = labels = 0
    for batch in log.decisions():
        for decision in batch:
            digest.update(_encode(decision))
        decisions += len(batch)
        if progress:
            progress(decisions, None)
    for reports in _reports(log):
        for report in reports:
            digest.update(_encode(report))
        labels += len(reports)
    keys = sorted(log.keys.all(), key=lambda key: key.name)
    digest.update(_encode([(key.name, key.token_hash, key.scopes, key.revoked_at_us is None) for key in keys]))
    return Contents(decisions, labels, len(keys), digest.hexdigest())


def _reports(log: DecisionLog) -> Iterator[list[LabelReport]]:
    """All label reports in order of arrival, a thousand at once, without entities: those are the transactions'."""
    for batch in log.audit_labels(batch_size=1_000):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        names = batch.schema.names
        places = [names.index(name) for name in (TRANSACTION_ID, IS_FRAUD, KNOWN_AT, ARRIVAL)]
        yield [LabelReport(Label(*(row[place] for place in places[:3])), row[places[3]]) for row in rows]


def _refuse_strangers(source: DecisionLog, target: DecisionLog) -> None:
    """A target that was begun by something else is told by its first decision."""
    ours, theirs = (next(log.decisions(batch_size=1), []) for log in (source, target))
    if theirs and ours != theirs:
        raise _stranger(theirs[0])


def _stranger(decision: Decision) -> ConflictError:
    return ConflictError(
        f"the target holds decisions that are not the source's ({decision.transaction.transaction_id!r}): "
        "migrate into an empty database"
    )
