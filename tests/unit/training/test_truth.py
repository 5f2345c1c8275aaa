"""Which label a transaction has by now: none that could still change, none from the future."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.adapters.offline.duckdb import DuckDBOfflineStore
from fraudml.decisions.log import OUTCOMES
from fraudml.decisions.record import Action, LabelReport
from fraudml.events.label import Label
from fraudml.events.source import arrow_schema
from fraudml.training import dataset
from fraudml.training.truth import Truth, gather
from tests.support.scoring import FEATURES, SCHEMA, SECOND, T0, decision, transaction

NOW = T0 + 1_000 * SECOND
MATURITY = 100 * SECOND
Report = tuple[bool, int]  # verdict, seconds after T0


@dataclass
class Known:
    """A transaction at ``at`` seconds, as history and the log have it; reports in order of arrival."""

    at: int
    logged: bool = True
    in_history: Report | None = None
    reports: list[Report] = field(default_factory=list)
    declined: bool = False


def labels(*known: Known, reported_only: bool = False) -> tuple[list[Report | None], Truth]:
    """The label of each after all was told, with the time from which it was known, as seconds after T0."""
    truth = Truth(NOW, MATURITY, reported_only=reported_only)
    whole = batch({i: (each.at, each.in_history) for i, each in enumerate(known)})
    truth.history(whole, whole.filter(pa.array([not each.logged for each in known])))
    truth.reported(Label(f"t{i}", *moment(r)) for i, each in enumerate(known) if each.logged for r in each.reports[1:])
    declined = {f"t{i}" for i, each in enumerate(known) if each.declined}
    truth.decided([pa.RecordBatch.from_pylist([outcome(i, declined) for i in range(len(known))], schema=OUTCOMES)])
    first = {i: (e.at, next(iter(e.reports), None) if e.logged else e.in_history) for i, e in enumerate(known)}
    told = truth(batch(first)).to_pylist()
    found: list[Report | None] = [
        None if row["is_fraud"] is None else (row["is_fraud"], (row["known_at_us"] - T0) // SECOND) for row in told
    ]
    return found, truth


def batch(rows: dict[int, tuple[int, Report | None]]) -> pa.RecordBatch:
    records = []
    for i, (at, report) in rows.items():
        fraud, known_at = (None, None) if report is None else moment(report)
        records.append(
            {"transaction_id": f"t{i}", "event_time_us": T0 + at * SECOND, "is_fraud": fraud, "known_at_us": known_at}
        )
    return pa.RecordBatch.from_pylist(records, schema=arrow_schema(SCHEMA))


def moment(report: Report) -> tuple[bool, int]:
    return report[0], T0 + report[1] * SECOND


def outcome(number: int, declined: set[str]) -> dict[str, object]:
    key = f"t{number}"
    return {"transaction_id": key, "action": "decline" if key in declined else "approve"}


@pytest.mark.parametrize(
    ("known", "label"),
    [
        (Known(500), (False, 600)),  # nobody reported it within its maturity
        (Known(900), (False, 1_000)),  # just mature
        (Known(901), None),
        (Known(500, reports=[(True, 510)]), (True, 510)),
        (Known(950, reports=[(True, 960)]), None),  # its genuine neighbours are not known yet
        (Known(500, reports=[(True, 510), (False, 700)]), (False, 700)),  # the dispute was reversed
        (Known(500, reports=[(False, 700), (True, 600)]), (True, 600)),  # the last to arrive counts
        (Known(500, reports=[(True, 510), (False, 1_001)]), (True, 510)),
        (Known(500, reports=[(True, 1_001)]), None),  # neither fraud nor genuine for sure
        (Known(500, reports=[(True, 1_000)]), (True, 1_000)),
        (Known(500, declined=True), None),
        (Known(500, declined=True, reports=[(False, 600)]), (False, 600)),
        (Known(500, in_history=(True, 550)), (True, 550)),  # only the source knows
        (Known(500, in_history=(True, 1_001)), None),
        (Known(500, in_history=(False, 550), reports=[(True, 510)]), (True, 510)),
        (Known(500, logged=False), None),  # history without a label says nothing
        (Known(500, logged=False, in_history=(False, 600)), (False, 600)),
        (Known(500, logged=False, in_history=(True, 1_001)), None),
        (Known(950, logged=False, in_history=(True, 960)), None),
    ],
)
def test_by_hand(known: Known, label: Report | None) -> None:
    assert labels(known)[0] == [label]


def test_only_what_was_reported() -> None:
    found, truth = labels(Known(500), Known(501, reports=[(True, 510)]), reported_only=True)
    assert found == [None, (True, 510)]
    assert truth.counts == {"known": 1, "assumed_genuine": 0, "waiting": 0, "unknown": 1}


def test_counts_by_hand() -> None:
    _, truth = labels(
        Known(500), Known(501, reports=[(True, 502)]), Known(502, declined=True), Known(503, logged=False), Known(999)
    )
    assert truth.counts == {"known": 1, "assumed_genuine": 1, "waiting": 1, "unknown": 2}
    assert truth.unknown_declines_us == [T0 + 502 * SECOND]


reports = st.tuples(st.booleans(), st.integers(0, 1_200))
knowns = st.builds(
    Known,
    at=st.integers(0, 1_100),
    logged=st.booleans(),
    in_history=st.none() | reports,
    reports=st.lists(reports, max_size=3),
    declined=st.booleans(),
)


@given(st.lists(knowns, min_size=1, max_size=20), st.booleans())
def test_no_label_could_still_change_and_none_is_from_the_future(known: list[Known], reported_only: bool) -> None:
    found, truth = labels(*known, reported_only=reported_only)
    for each, label in zip(known, found, strict=True):
        if label is None:
            continue
        assert each.at + MATURITY // SECOND <= 1_000, "a fraud may still be reported"
        assert label[1] <= 1_000, "nobody knew it yet"
        told = each.reports if each.logged else []
        if label[0] or reported_only:
            assert label in [*told, each.in_history], "nobody said so"
        if known_by_now := [report for report in told if report[1] <= 1_000]:
            assert label == known_by_now[-1]
    assert sum(truth.counts.values()) == len(known)
    assert truth.counts["known"] + truth.counts["assumed_genuine"] == sum(label is not None for label in found)


@given(st.lists(knowns, min_size=1, max_size=10), st.integers(0, 9), reports.filter(lambda report: report[1] > 1_000))
def test_what_is_reported_after_now_changes_no_verdict(known: list[Known], place: int, late: Report) -> None:
    before, _ = labels(*known)
    changed = known[place % len(known)]
    changed.reports.append(late)
    after, _ = labels(*known)
    for old, new, each in zip(before, after, known, strict=True):
        assert new == old or (each is changed and new is None), "it may at most be left out"


def test_features_see_reports_as_they_were_served(tmp_path: Path) -> None:
    """A transaction that counts as genuine is no report: services never had one."""
    store = DuckDBOfflineStore(temp_directory=tmp_path)
    truth = Truth(NOW, MATURITY)
    history = batch({3: (5, (True, 8)), 4: (6, None)})
    with closing(SqliteDecisionLog(f"sqlite:///{tmp_path / 'log.db'}", SCHEMA)) as log, closing(store):
        log.claim()
        log.append([decision(transaction(i), i, action=a) for i, a in ((1, Action.approve), (2, Action.decline))])
        log.append([decision(transaction(i), i) for i in (3, 500)])
        log.append_labels([LabelReport(Label("t1", True, T0 + 400 * SECOND), 600)])
        log.append_labels([LabelReport(Label("t1", False, T0 + 450 * SECOND), 601)])
        assert gather(log, store, SCHEMA, [history], truth) == 5, "t3 counts once"
        data = dataset.build(store, FEATURES, labelled=truth)
    # t1 (reversed), t2 (a decline), t3 (the source knows), t4 (history without a label), t500 (nobody reported it)
    assert data.y.tolist() == [0, -1, 1, -1, 0]
    frauds = data.x[:, FEATURES.input_names.index("frauds_30d")]
    assert frauds.tolist() == [0, 0, 0, 0, 1], "the report of t1 was there, that of t3 is not in the log"
    assert (data.known_at_us[data.y >= 0] <= NOW).all()
