"""Copies a decision log into another one, of whatever kind, and proves that nothing was lost."""

from __future__ import annotations

import hashlib
from itertools import chain

import msgspec

from fraudml.decisions.log import DecisionLog
from fraudml.decisions.record import Decision
from fraudml.errors import ConflictError
from fraudml.events.source import Progress
from fraudml.operations import migrate_labels

_encode = msgspec.msgpack.Encoder().encode


class Contents(msgspec.Struct, frozen=True):
    """How much is in a log, and a SHA-256 over all of it in order of arrival (keys by name)."""

    decisions: int
    labels: int
    keys: int
    sha256: str


def copy(source: DecisionLog, target: DecisionLog, progress: Progress | None = None, *, idle: bool = True) -> int:
    """Copy transactions with their decisions, label reports, keys and the chain of hashes; returns the number of
    decisions copied now.

    May be interrupted at any moment and run again. Decisions go on behind the last one that the target has. ``idle``:
    nobody writes to the source, as its claim proves. Then what several writers committed late, with lower numbers of
    arrival, is looked for as well, and reports and keys follow that the target lacks; before, they would be of
    decisions that are not copied. Raises ``ConflictError`` when the target holds something else.
    """
    _refuse_strangers(source, target)
    copied = 0
    for batch in source.decisions(after=target.last_arrival(labels=False)):
        _append(target, batch)
        copied += len(batch)
        if progress:
            progress(copied, None)
    if not idle:
        return copied
    there, here = (sum(1 for _ in log.transaction_ids()) for log in (source, target))
    if there != here:
        copied += _copy_between(source, target, there, progress)
    for reports in chain(migrate_labels.histories(source, target), migrate_labels.reports(source)):
        target.append_labels(reports, chained=False)
    for links in source.chain():
        target.carry(links)
    _copy_keys(source, target)
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
    for reports in migrate_labels.reports(log):
        for report in reports:
            digest.update(_encode(report))
        labels += len(reports)
    for links in log.chain():
        for link in links:
            digest.update(link.digest)
    keys = sorted(log.keys.all(), key=lambda key: key.name)
    digest.update(_encode([(key.name, key.token_hash, key.scopes, key.revoked_at_us is None) for key in keys]))
    return Contents(decisions, labels, len(keys), digest.hexdigest())


def _append(target: DecisionLog, batch: list[Decision]) -> None:
    stand = target.append(batch, chained=False)
    for decision in batch:
        if stand.get(decision.transaction.transaction_id, decision) != decision:
            raise _stranger(decision)


def _copy_between(source: DecisionLog, target: DecisionLog, total: int, progress: Progress | None) -> int:
    """Copy the decisions that the target lacks, wherever; reads both logs from their beginning, side by side."""
    held = chain.from_iterable(target.decisions())
    nearest = next(held, None)
    read = copied = 0
    for batch in source.decisions():
        missing = []
        for decision in batch:
            if nearest is None or nearest.arrival > decision.arrival:
                missing.append(decision)
            elif nearest != decision:
                raise _stranger(nearest)
            else:
                nearest = next(held, None)
        _append(target, missing)
        copied += len(missing)
        read += len(batch)
        if progress:
            progress(read, total)
    if nearest is not None:
        raise _stranger(nearest)
    return copied


def _copy_keys(source: DecisionLog, target: DecisionLog) -> None:
    have = {key.name: key for key in target.keys.all()}
    for key in source.keys.all():
        if key.name not in have:
            target.keys.add(key)
        elif have[key.name].token_hash != key.token_hash:
            raise ConflictError(f"the target has another API key named {key.name!r}: migrate into an empty database")
        elif key.revoked_at_us is not None:
            target.keys.revoke(key.name)


def _refuse_strangers(source: DecisionLog, target: DecisionLog) -> None:
    """A target that was begun by something else is told by its first decision."""
    for first in next(target.decisions(batch_size=1), []):
        if source.find([first.transaction.transaction_id]) != {first.transaction.transaction_id: first}:
            raise _stranger(first)


def _stranger(decision: Decision) -> ConflictError:
    return ConflictError(
        f"the target holds decisions that are not the source's ({decision.transaction.transaction_id!r}): "
        "migrate into an empty database"
    )
