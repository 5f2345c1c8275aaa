"""The label reports of a decision log, in an order in which another log takes all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fraudml.decisions.log import ARRIVAL, DecisionLog, is_news
from fraudml.decisions.record import LabelReport
from fraudml.events.label import Label
from fraudml.events.schema import IS_FRAUD, KNOWN_AT, TRANSACTION_ID

AT_ONCE = 1_000


def reports(log: DecisionLog) -> Iterator[list[LabelReport]]:
    """All in order of arrival, a thousand at once, without entities: those are the transactions'."""
    for batch in log.audit_labels(batch_size=AT_ONCE):
        rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        names = batch.schema.names
        places = [names.index(name) for name in (TRANSACTION_ID, IS_FRAUD, KNOWN_AT, ARRIVAL)]
        yield [LabelReport(Label(*(row[place] for place in places[:3])), row[places[3]]) for row in rows]


def histories(source: DecisionLog, target: DecisionLog) -> Iterator[list[LabelReport]]:
    """What the target lacks about transactions with several reports, a thousand at once, none of them split.

    What is news is told by arrival, among the reports stored so far. Where the clocks of two writers differ, reports
    were not stored in that order, and a log that got them in it would take some for repeats. The first report stays the
    first. The second and further reports of the source are held in memory.
    """
    later: dict[str, set[tuple[bool, int]]] = {}
    for label in source.later_labels():
        later.setdefault(label.transaction_id, set()).add((label.is_fraud, label.known_at_us))
    some: list[LabelReport] = []
    for transaction_id, others in later.items():
        history = source.label_history(transaction_id)
        have = target.label_history(transaction_id)
        first = [] if have else [report for report in history if _said(report) not in others]
        some += first + in_order_of_news(have or first, history)
        if len(some) >= AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def in_order_of_news(taken: Sequence[LabelReport], history: Sequence[LabelReport]) -> list[LabelReport]:
    """The reports of a history (by arrival) without those that are ``taken``, so that each is news (:func:`is_news`).

    In order of arrival if that will do. Otherwise the one that arrived last is put off, because no other one of its
    verdict is news after it; and of the others that are news, the one that arrived last is the next.

    >>> legit, fraud, late = (LabelReport(Label("t1", v, at), at) for v, at in ((False, 2), (True, 3), (False, 1)))
    >>> [report.arrival for report in in_order_of_news([legit], [late, legit, fraud])]
    [3, 1]
    """
    said = {_said(report) for report in taken}
    rest = [report for report in history if _said(report) not in said]
    return _by_arrival(taken, rest) or _put_off(taken, rest)


def _by_arrival(taken: Sequence[LabelReport], rest: Sequence[LabelReport]) -> list[LabelReport]:
    """The same reports if each is news in this order, or none."""
    stored = [*taken]
    for report in rest:
        if not is_news(stored, report.label):
            return []
        stored.append(report)
    return [*rest]


def _put_off(taken: Sequence[LabelReport], rest: list[LabelReport]) -> list[LabelReport]:
    ordered: list[LabelReport] = []
    while rest:
        news = [report for report in rest[:-1] if is_news([*taken, *ordered], report.label)]
        chosen = news[-1] if news else rest[-1]
        rest.remove(chosen)
        ordered.append(chosen)
    return ordered


def _said(report: LabelReport) -> tuple[bool, int]:
    return report.label.is_fraud, report.label.known_at_us
