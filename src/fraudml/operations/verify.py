"""Recomputes the chains of the decision log and names whatever is not as it was written.

See :mod:`fraudml.decisions.chain`. What this cannot see without a head that was kept elsewhere: that the end of a log
was cut off together with its links, or that somebody made all links after a change anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any

import msgspec

from fraudml.decisions.chain import START, Head, Kind, Link, seal
from fraudml.decisions.log import WRITERS, DecisionLog, StoredRow
from fraudml.errors import ConfigError
from fraudml.events.source import Progress

SHOWN = 100  # problems that are named; all are counted


class Wrong(StrEnum):
    """What was found wrong."""

    altered = "altered"
    missing = "missing"
    added = "added"


class Problem(msgspec.Struct, frozen=True):
    """``what``: a decision, a label or a link; ``place``: its arrival, or of a link writer and number."""

    wrong: Wrong
    what: str
    place: str
    transaction_id: str | None = None


class WriterHead(msgspec.Struct, frozen=True):
    """The end of a writer's chain, to be kept elsewhere. ``digest``: hex."""

    writer: int
    seq: int
    digest: str


class Verified(msgspec.Struct):
    """What was confirmed, and what is wrong.

    ``unchained``: rows from before there was a chain. ``removed``: rows that retention has removed. ``wrong``: all
    problems; ``problems``: the first :data:`SHOWN` of them.
    """

    links: int = 0
    decisions: int = 0
    labels: int = 0
    unchained: int = 0
    removed: int = 0
    wrong: int = 0
    problems: list[Problem] = msgspec.field(default_factory=list)
    heads: list[WriterHead] = msgspec.field(default_factory=list)

    def add(self, wrong: Wrong, what: str, place: object, transaction_id: object = None) -> None:
        """Count a problem."""
        self.wrong += 1
        if len(self.problems) < SHOWN:
            self.problems.append(
                Problem(wrong, what, str(place), None if transaction_id is None else str(transaction_id))
            )


class _Noted(msgspec.Struct):
    heads: list[WriterHead]


def noted_heads(document: bytes, place: str) -> list[WriterHead]:
    """The heads of an earlier result as JSON; ``ConfigError`` for anything else. ``place``: where it is from."""
    try:
        return msgspec.json.decode(document, type=_Noted).heads
    except msgspec.DecodeError as error:
        raise ConfigError(f"{place}: {error}; give it what fraudml decisions verify --json printed") from None


class _Chains:
    """What the links say that rows are told by: where chains begin."""

    def __init__(self) -> None:
        self.begun = 0  # rows up to this arrival are older than the chain
        self.first: dict[int, int] = {}  # arrival, by writer

    def is_older(self, arrival: int) -> bool:
        """Whether a row without a link is from before its writer had a chain, as far as links say."""
        return arrival <= self.begun or arrival < self.first.get(arrival % WRITERS, 0)


def verify(
    log: DecisionLog,
    *,
    removed_before_us: Callable[[], int] = lambda: 0,
    expected: Sequence[WriterHead] = (),
    progress: Mapping[str, Progress] | None = None,
) -> Verified:
    """Check every link, decision and label report. The log may be written to meanwhile.

    ``removed_before_us``: rows about transactions before this time may be missing, because retention removes them. It
    is asked whenever one is missing, because retention goes on meanwhile. ``expected``: heads noted earlier, which must
    still be links. ``progress``: for "decisions" and "labels". Memory: of links that overlap, and of rows that have
    none.
    """
    done = Verified()
    chains = _check_links(log, done, removed_before_us, expected)
    told = progress or {}
    for kind, what, rows in (
        (Kind.decisions, "decision", lambda: log.stored_decisions(removed_before_us())),
        (Kind.labels, "label", log.stored_labels),
    ):
        confirmed = _Sweep(log, kind, what, chains, done, removed_before_us).run(rows, told.get(kind.value))
        setattr(done, kind.value, confirmed)
    return done


def _check_links(
    log: DecisionLog, done: Verified, removed_before_us: Callable[[], int], expected: Sequence[WriterHead]
) -> _Chains:
    """Each link fits the one before, and its members fit it."""
    chains = _Chains()
    heads: dict[int, Head] = {}
    wanted = {(each.writer, each.seq): each.digest for each in expected}
    may_start = not wanted or (START, 1) in wanted  # a log does not become older than its chain afterwards
    for links in log.chain():
        for link in links:
            before = heads.get(link.writer, Head())
            for seq in range(before.seq + 1, min(link.seq, before.seq + 1 + SHOWN)):
                done.add(Wrong.missing, "link", f"{link.writer}/{seq}")
            gone = link.members is None and link.until_us < removed_before_us()
            fits = link.seq != before.seq + 1 or link.follows(before.digest)
            noted = wanted.pop((link.writer, link.seq), link.digest.hex())
            starts = link.kind is Kind.start
            fits &= starts == (link.writer == START) and (not starts or link.seq == 1)
            if not fits or not (gone or link.has_members()) or noted != link.digest.hex():
                done.add(Wrong.altered, "link", f"{link.writer}/{link.seq}")
            elif starts and not may_start:
                done.add(Wrong.added, "link", f"{link.writer}/{link.seq}")
            elif starts:
                chains.begun = max(chains.begun, link.first)
            else:
                done.links += 1
                if link.seq == 1:
                    chains.first[link.writer] = link.first
            if gone:
                done.removed += link.rows
            heads[link.writer] = link.head
    for writer, seq in wanted:
        done.add(Wrong.missing, "link", f"{writer}/{seq}")
    done.heads = [WriterHead(writer, head.seq, head.digest.hex()) for writer, head in sorted(heads.items())]
    return chains


class _Sweep:
    """Goes through the rows of a kind and their links side by side, both in order of arrival."""

    def __init__(
        self,
        log: DecisionLog,
        kind: Kind,
        what: str,
        chains: _Chains,
        done: Verified,
        removed_before_us: Callable[[], int],
    ) -> None:
        self._log = log
        self._kind = kind
        self._what = what
        self._chains = chains
        self._done = done
        self._removed_before_us = removed_before_us
        self._expected: dict[int, list[Any]] = {}  # by arrival: time and seal
        self._unlinked: dict[int, object] = {}  # id by arrival
        self._confirmed = 0

    def run(self, rows: Callable[[], Iterator[list[StoredRow]]], progress: Progress | None) -> int:
        """How many rows are confirmed."""
        links = self._links()
        following = next(links, None)  # read before the rows: so each linked row is among them
        seen = 0
        for batch in rows():
            for row in batch:
                while following is not None and following.first <= row.arrival:
                    self._expect(following)
                    following = next(links, None)
                self._compare(row)
            self._miss(batch[-1].arrival)
            seen += len(batch)
            if progress:
                progress(seen, None)
        while following is not None:
            self._expect(following)
            following = next(links, None)
        self._miss(None)
        self._tell_unlinked()
        return self._confirmed

    def _links(self) -> Iterator[Link]:
        for links in self._log.chain(by_arrival=True):
            yield from (link for link in links if link.kind is self._kind)

    def _expect(self, link: Link) -> None:
        for arrival, *told in link.records().tolist():
            if self._expected.setdefault(arrival, told) != told:  # the first one is what was written
                self._done.add(Wrong.altered, "link", f"{link.writer}/{link.seq}")

    def _compare(self, row: StoredRow) -> None:
        known = self._expected.pop(row.arrival, None)
        if known is None and self._chains.is_older(row.arrival):
            self._done.unchained += 1
        elif known is None and row.row is None:
            self._done.add(Wrong.added, self._what, row.arrival, row.transaction_id)
        elif known is None:
            self._unlinked[row.arrival] = row.transaction_id
        elif _sealed(row) == known[1]:
            self._confirmed += 1
        else:
            self._done.add(Wrong.altered, self._what, row.arrival, row.transaction_id)

    def _miss(self, until: int | None) -> None:
        """What was expected up to an arrival and did not come."""
        late = [arrival for arrival in self._expected if until is None or arrival <= until]
        for arrival in sorted(late):
            time, _ = self._expected.pop(arrival)
            if time < self._removed_before_us():
                self._done.removed += 1
            else:
                self._done.add(Wrong.missing, self._what, arrival)

    def _tell_unlinked(self) -> None:
        """Rows without a link: committed since the links were read, or added."""
        for link in self._links() if self._unlinked else ():
            for arrival, *_ in link.records().tolist():
                self._unlinked.pop(arrival, None)
        for arrival, transaction_id in self._unlinked.items():
            self._done.add(Wrong.added, self._what, arrival, transaction_id)


def _sealed(row: StoredRow) -> bytes | None:
    with suppress(TypeError, ValueError, OverflowError):
        return None if row.row is None else seal(row.row)
    return None
