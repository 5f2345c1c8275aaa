"""What every decision log promises about its chain of hashes: nothing is altered, removed or added unseen."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraudml.decisions.chain import START, Kind, Link, linked, seal, start
from fraudml.decisions.log import WRITERS, Arrivals, DecisionLog
from fraudml.decisions.record import Degradation, LabelReport, Trial
from fraudml.errors import DecisionLogError
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.operations import migrate
from fraudml.operations.verify import Verified, Wrong, verify
from tests.support.logs import ADAPTERS, ONE_SESSION, Backend, Open
from tests.support.scoring import T0, decision, transaction

LONG = "x" * 3_000


@pytest.fixture(params=["sqlite", "postgres"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Links and rows are read side by side, which takes two sessions; TimescaleDB changes nothing of them."""
    return ADAPTERS[request.param](request)


@pytest.fixture
def filled(log: DecisionLog) -> DecisionLog:
    """Ten decisions t1 to t10 of three commits, with arrivals 64 apart, and two label reports."""
    made = []
    for n in range(1, 10):
        trial, source = Trial(1, 0.5) if n > 5 else None, "transactions/0/7" if n > 7 else None
        entered_us = 5 if n == 9 else None
        made.append(
            decision(transaction(n), n * WRITERS, trial=trial, source=source, entered_us=entered_us, late=n == 3)
        )
    log.append(made[:4])
    log.append([*made[4:], decision(Transaction(LONG, T0, (None, None), None, (None, None, None)), 10 * WRITERS)])
    log.append_labels([report(1, 11 * WRITERS), report(2, 12 * WRITERS)])
    return log


def report(number: int, arrival: int, fraud: bool = True) -> LabelReport:
    return LabelReport(Label(f"t{number}", fraud, T0 + arrival), arrival)


def remove(backend: Backend, which: str) -> None:
    """Decisions whose arrival is as ``which`` says, from all tables."""
    tables = ["decisions", "transactions"]
    if not isinstance(backend, ADAPTERS["sqlite"]):
        tables.append("transaction_ids")
    backend.change(*(f"DELETE FROM {table} WHERE arrival {which}" for table in tables))  # noqa: S608


def told(found: Verified) -> set[tuple[str, str, str]]:
    assert found.wrong == len(found.problems)
    return {(problem.wrong.value, problem.what, problem.place) for problem in found.problems}


def links(log: DecisionLog) -> list[Link]:
    return [link for some in log.chain() for link in some]


def test_a_log_as_it_was_written_is_confirmed(reopen: Open, filled: DecisionLog) -> None:
    found = verify(reopen())
    assert (found.links, found.decisions, found.labels, found.wrong) == (3, 10, 2, 0)
    assert [(link.writer, link.seq, link.kind, link.rows) for link in links(reopen())] == [
        (0, 1, Kind.decisions, 4),
        (0, 2, Kind.decisions, 6),
        (0, 3, Kind.labels, 2),
    ]
    assert [head.seq for head in found.heads] == [3]


def test_an_empty_log_is_confirmed(log: DecisionLog) -> None:
    assert verify(log) == Verified()


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
events = st.builds(
    Transaction,
    names,
    st.integers(0, 7_258_118_400_000_000 - 1),
    st.tuples(st.none() | names, st.none() | names),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.tuples(
        st.none() | names, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.none() | st.integers(0, 9)
    ),
)


@given(
    batch=st.lists(events, min_size=1, max_size=5, unique_by=lambda each: each.transaction_id),
    score=st.none() | st.floats(0, 1),
    degraded=st.lists(st.sampled_from(Degradation), unique=True).map(tuple),
    trial=st.none() | st.builds(Trial, st.integers(0, 9), st.floats(0, 1), st.none() | st.floats(0, 1), st.booleans()),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_any_decision_is_confirmed_as_it_is_read_back(
    log: DecisionLog,
    batch: list[Transaction],
    score: float | None,
    degraded: tuple[Degradation, ...],
    trial: Trial | None,
) -> None:
    last = log.last_arrival()
    made = [
        decision(each, last + n, score=score, degraded=degraded, trial=trial, late=trial is None)
        for n, each in enumerate(batch, 1)
        if not log.find([each.transaction_id])
    ]
    log.append(made)
    assert verify(log).wrong == 0


# An UPDATE of each column of each table, and the arrival by which it is told; t5 has no label, t1 has one.
OF_TRANSACTION = {
    "event_time_us": "event_time_us + 1",
    "amount_minor": "amount_minor + 1",
    "entities": "'{{}}'",
    "attributes": "'{{}}'",
}
OF_DECISION = {
    "vector": "{blob}",
    "score": "0.5",
    "action": "'review'",
    "model_version": "'2'",
    "fingerprint": "'f'",
    "arm": "'challenger'",
    "late": "{true}",
    "degraded": "'[\"model\"]'",
    "decided_at_us": "decided_at_us + 1",
    "timings": "'[]'",
    "trial": "'{{}}'",
}
OF_LABEL = {"transaction_id": "'t4'", "nth": "2", "is_fraud": "{false}", "known_at_us": "known_at_us + 1"}
MOVED = {"arrival": "777"}
NAMED = {"transaction_id": "'evil'"}
TABLES = {
    "sqlite": {
        "transactions": MOVED | NAMED | OF_TRANSACTION,
        "decisions": MOVED | OF_DECISION,
        "labels": MOVED | OF_LABEL,
    },
    "postgres": {
        "transaction_ids": MOVED | NAMED | {"event_time_us": "1"},
        "transactions": MOVED | NAMED | OF_TRANSACTION | {"original_id": "'evil'"},
        "decisions": MOVED | NAMED | OF_DECISION | {"event_time_us": "1", "amount_minor": "5"},
        "labels": MOVED | OF_LABEL | {"event_time_us": "1"},
    },
}
CHANGES = [
    (kind, table, column, to)
    for kind, tables in TABLES.items()
    for table, columns in tables.items()
    for column, to in columns.items()
]


@pytest.mark.parametrize("changed", CHANGES, ids=lambda each: ".".join(each[:3]))
def test_a_change_of_any_column_is_found(
    changed: tuple[str, str, str, str], backend: Backend, filled: DecisionLog
) -> None:
    kind, table, column, to = changed
    if kind != ("sqlite" if type(backend) is ADAPTERS["sqlite"] else "postgres"):
        return
    sqlite = kind == "sqlite"
    words = {
        "blob": "x'00'" if sqlite else "'\\x00'",
        "true": "1" if sqlite else "true",
        "false": "0" if sqlite else "false",
    }
    arrival = 11 * WRITERS if table == "labels" else 5 * WRITERS
    backend.change(f"UPDATE {table} SET {column} = {to.format(**words)} WHERE arrival = {arrival}")  # noqa: S608
    what = "label" if table == "labels" else "decision"
    found = told(verify(filled))
    if column == "arrival" and table in ("labels", "transactions" if sqlite else "transaction_ids"):
        stray = {("added", what, str(arrival))} if table == "transactions" else set()  # the rest of it
        assert found == {("missing", what, str(arrival)), ("added", what, "777"), *stray}
    elif column == "arrival" and table == "decisions" and sqlite:
        assert found == {("altered", what, str(arrival)), ("added", what, "777")}
    elif not sqlite and table != "labels" and column in ("transaction_id", "event_time_us"):
        assert found == {("altered", what, str(arrival)), ("added", what, str(arrival))}
    else:
        assert found == {("altered", what, str(arrival))}


def test_what_is_removed_is_missing(backend: Backend, filled: DecisionLog) -> None:
    remove(backend, f"= {5 * WRITERS}")
    backend.change(f"DELETE FROM labels WHERE arrival = {12 * WRITERS}")  # noqa: S608
    found = verify(filled)
    assert told(found) == {("missing", "decision", str(5 * WRITERS)), ("missing", "label", str(12 * WRITERS))}
    assert (found.decisions, found.labels) == (9, 1)


def test_what_is_added_without_a_link_is_told_with_its_id(log: DecisionLog, filled: DecisionLog) -> None:
    log.append([decision(transaction(77), 77 * WRITERS)], chained=False)
    log.append_labels([report(77, 78 * WRITERS)], chained=False)
    found = verify(log)
    assert told(found) == {("added", "decision", str(77 * WRITERS)), ("added", "label", str(78 * WRITERS))}
    assert {problem.transaction_id for problem in found.problems} == {"t77"}


def test_rows_that_changed_places_are_altered(backend: Backend, filled: DecisionLog) -> None:
    def moved(a: int, b: int) -> str:
        return f"UPDATE decisions SET arrival = {b} WHERE arrival = {a}"  # noqa: S608

    one, two = 5 * WRITERS, 6 * WRITERS
    if isinstance(backend, ADAPTERS["sqlite"]):
        backend.change(moved(one, 1), moved(two, one), moved(1, two))
    else:
        backend.change(
            f"UPDATE decisions AS d SET vector = '', score = o.score, timings = o.timings, trial = o.trial, "  # noqa: S608
            f"decided_at_us = o.decided_at_us FROM decisions AS o WHERE d.arrival IN ({one}, {two}) "
            f"AND o.arrival IN ({one}, {two}) AND o.arrival <> d.arrival"
        )
    assert told(verify(filled)) == {("altered", "decision", str(one)), ("altered", "decision", str(two))}


def test_links_that_are_altered_removed_or_in_another_order_are_told(backend: Backend, filled: DecisionLog) -> None:
    backend.change("UPDATE chain SET seq = -seq WHERE seq < 3", "UPDATE chain SET seq = 3 + seq WHERE seq < 0")
    assert {each[0] for each in told(verify(filled))} == {"altered"}
    backend.change("DELETE FROM chain WHERE seq = 2")
    found = told(verify(filled))
    assert ("missing", "link", "0/2") in found
    assert {each[0] for each in found if each[1] == "decision"} == {"added"}


@pytest.mark.parametrize("column", ["kind", "rows", "first", "until_us", "content", "digest", "members"])
def test_a_change_of_a_link_is_found(column: str, backend: Backend, filled: DecisionLog) -> None:
    blob = "x'00'" if isinstance(backend, ADAPTERS["sqlite"]) else "'\\x00'"
    to = {"kind": "'labels'"}.get(column, blob if column in ("content", "digest", "members") else f"{column} + 1")
    backend.change(f"UPDATE chain SET {column} = {to} WHERE seq = 2")  # noqa: S608
    assert ("altered", "link", "0/2") in told(verify(filled))


def test_a_link_of_another_program_is_an_error(backend: Backend, filled: DecisionLog) -> None:
    backend.change("UPDATE chain SET kind = 'newer'")
    with pytest.raises(DecisionLogError, match="newer"):
        verify(filled)


def forged(backend: Backend, link: Link) -> None:
    """Somebody adds a link of his own."""
    blob = "x'{}'" if isinstance(backend, ADAPTERS["sqlite"]) else "'\\x{}'"
    content, digest, members = (blob.format(each.hex()) for each in (link.content, link.digest, link.members or b""))
    backend.change(
        f"INSERT INTO chain VALUES ({link.writer}, {link.seq}, '{link.kind.value}', {link.rows}, {link.first}, "  # noqa: S608
        f"{link.until_us}, {content}, {digest}, {members})"
    )


@pytest.mark.parametrize("time", [0, T0 + 5_000_000])
def test_a_forged_link_at_the_end_hides_nothing(time: int, backend: Backend, reopen: Open, filled: DecisionLog) -> None:
    heads = verify(filled).heads
    backend.change(f"UPDATE decisions SET score = 0.25 WHERE arrival = {5 * WRITERS}")  # noqa: S608
    (row,) = (row for rows in filled.stored_decisions() for row in rows if row.arrival == 5 * WRITERS)
    assert row.row is not None
    remove(backend, f"= {6 * WRITERS}")
    members = [(5 * WRITERS, time, seal(row.row)), (6 * WRITERS, 0, bytes(16))]
    forged(backend, linked(0, links(filled)[-1].head, Kind.decisions, members))
    log = reopen()
    log.append([decision(transaction(20), 20 * WRITERS)])
    found = told(verify(log, expected=heads, removed_before_us=lambda: T0))
    assert found == {
        ("altered", "link", "0/4"),
        ("altered", "decision", str(5 * WRITERS)),
        ("missing", "decision", str(6 * WRITERS)),
    }


def test_a_log_does_not_become_older_than_its_chain(backend: Backend, log: DecisionLog, filled: DecisionLog) -> None:
    heads = verify(filled).heads
    log.append([decision(transaction(20), 20 * WRITERS)], chained=False)
    forged(backend, start(30 * WRITERS))
    assert verify(log).unchained == 1
    added = {("added", "decision", str(20 * WRITERS))}
    assert told(verify(log, expected=heads)) == {("added", "link", "-1/1"), *added}
    backend.change("DELETE FROM chain WHERE writer = -1")
    forged(backend, start(WRITERS - 1))
    heads = verify(log).heads
    (first,) = (link for link in links(log) if link.writer == START)
    forged(backend, linked(START, first.head, Kind.start, [(30 * WRITERS, 0, bytes(16))]))
    assert told(verify(log)) == {("altered", "link", "-1/2"), *added}


def test_a_link_of_other_types_is_an_error(backend: Backend, filled: DecisionLog) -> None:
    if not isinstance(backend, ADAPTERS["sqlite"]):
        return  # columns have types
    for change in ("digest = 'x'", "content = 7", "members = 'x'", "seq = 'zz'", "first = 'a'", "rows = 1.5"):
        backend.change("CREATE TABLE kept AS SELECT * FROM chain", f"UPDATE chain SET {change} WHERE seq = 1")  # noqa: S608
        with pytest.raises(DecisionLogError, match="no link has"):
            verify(filled)
        backend.change("DELETE FROM chain", "INSERT INTO chain SELECT * FROM kept", "DROP TABLE kept")
    assert verify(filled).wrong == 0


def test_rows_that_no_id_leads_to_are_added(backend: Backend, filled: DecisionLog) -> None:
    arrival = 5 * WRITERS
    if isinstance(backend, ADAPTERS["sqlite"]):
        backend.change(f"DELETE FROM transactions WHERE arrival = {arrival}")  # noqa: S608
    else:
        backend.change(f"DELETE FROM transaction_ids WHERE arrival = {arrival}")  # noqa: S608
    expected = {("missing", "decision", str(arrival)), ("added", "decision", str(arrival))}
    assert told(verify(filled)) == expected


def test_what_is_kept_twice_is_the_same(backend: Backend, filled: DecisionLog) -> None:
    """PostgreSQL's tables have keys of ids, and the amount beside the decision, which dashboards sum up."""
    if isinstance(backend, ADAPTERS["sqlite"]):
        return  # nothing is kept twice
    tables = ("transaction_ids", "transactions", "decisions")
    backend.change(
        *(f"UPDATE {table} SET transaction_id = 'other' WHERE arrival = {6 * WRITERS}" for table in tables),  # noqa: S608
        f"UPDATE transactions SET original_id = 't6' WHERE arrival = {6 * WRITERS}",  # noqa: S608
        "UPDATE decisions SET amount_minor = NULL WHERE transaction_id = 't7'",
        "UPDATE labels SET event_time_us = NULL WHERE transaction_id = 't1'",
    )
    assert told(verify(filled)) == {
        ("altered", "decision", str(6 * WRITERS)),
        ("altered", "decision", str(7 * WRITERS)),
        ("altered", "label", str(11 * WRITERS)),
    }


def test_what_retention_removes_meanwhile_is_not_missing(backend: Backend, filled: DecisionLog) -> None:
    remove(backend, f"= {5 * WRITERS}")
    limits = iter([T0, *[T0 + 6_000_000] * 9])  # retention goes on to the next day
    found = verify(filled, removed_before_us=lambda: next(limits))
    assert (found.wrong, found.removed) == (0, 1)


def test_an_end_that_is_cut_off_shows_where_a_head_was_kept(backend: Backend, filled: DecisionLog) -> None:
    heads = verify(filled).heads
    backend.change("DELETE FROM labels", "DELETE FROM chain WHERE seq = 3")
    assert verify(filled).wrong == 0
    found = verify(filled, expected=heads)
    assert told(found) == {("missing", "link", "0/3")}
    filled.append_labels([report(4, 20 * WRITERS)])  # this one goes on from memory, so its link has a gap before it
    found = verify(filled, expected=heads)
    assert found.wrong


def test_a_chain_that_was_made_anew_shows_where_a_head_was_kept(
    backend: Backend, reopen: Open, filled: DecisionLog
) -> None:
    heads = verify(filled).heads
    backend.change("DELETE FROM labels", "DELETE FROM chain WHERE seq = 3")
    log = reopen()
    log.append_labels([report(1, 11 * WRITERS, fraud=False)])
    assert verify(log).wrong == 0
    assert told(verify(log, expected=heads)) == {("altered", "link", "0/3")}


def test_what_may_have_been_removed_is_told_apart(backend: Backend, filled: DecisionLog) -> None:
    remove(backend, f"IN ({WRITERS * 9}, {WRITERS * 5})")
    found = verify(filled, removed_before_us=lambda: T0 + 6_000_000)
    assert told(found) == {("missing", "decision", str(9 * WRITERS))}
    assert (found.removed, found.decisions) == (1, 8)


def test_only_old_links_may_be_without_members(backend: Backend, filled: DecisionLog) -> None:
    backend.change("UPDATE chain SET members = NULL WHERE seq = 1")
    backend.change("DELETE FROM labels")
    remove(backend, f"<= {WRITERS * 4}")
    found = verify(filled, removed_before_us=lambda: T0 + 5_000_000)
    assert found.wrong == 0
    assert (found.removed, found.decisions, found.links) == (6, 6, 3)
    assert ("altered", "link", "0/1") in told(verify(filled, removed_before_us=lambda: T0 + 4_000_000))


def test_a_log_is_verified_while_it_is_written_to(log: DecisionLog, filled: DecisionLog) -> None:
    stop = threading.Event()
    failures: list[Exception] = []

    def write() -> None:
        number = 100
        try:
            while not stop.is_set():
                log.append([decision(transaction(number), number * WRITERS)])
                number += 1
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = [verify(log) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert failures == []
    assert {each.wrong for each in found} == {0}
    assert found[-1].decisions >= 10


def test_a_log_opened_twice_keeps_one_chain(backend: Backend, log: DecisionLog) -> None:
    other = backend.open()
    for n in range(1, 7):
        (log, other)[n % 2].append([decision(transaction(n), n)])
        (log, other)[n // 2 % 2].append_labels([report(n, 100 + n)])
    other.close()
    found = verify(log)
    assert (found.links, found.decisions, found.labels, found.wrong) == (12, 6, 6, 0)


def test_a_refused_commit_leaves_no_link(log: DecisionLog) -> None:
    log.append([decision(transaction(1), 1)])
    log.append([decision(transaction(1), 2), decision(transaction(2), 3)])
    log.append([decision(transaction(1), 4)])
    with pytest.raises(DecisionLogError):
        log.append_labels([report(9, 5)])
    assert log.append_labels([report(1, 6), report(1, 7)]) == [report(1, 6)]
    assert log.append_labels([report(1, 8)]) == []
    assert [(link.kind, link.rows) for link in links(log)] == [
        (Kind.decisions, 1),
        (Kind.decisions, 1),
        (Kind.labels, 1),
    ]
    assert verify(log).wrong == 0


@pytest.fixture
def several(backend: Backend) -> Iterator[list[DecisionLog]]:
    logs = [backend.open() for _ in range(3)] if backend.shared else []
    yield logs
    for log in logs:
        log.close()


def test_each_process_has_a_chain_and_who_has_its_number_next_goes_on(
    several: list[DecisionLog], backend: Backend
) -> None:
    if backend.one_session:
        pytest.skip(ONE_SESSION)
    failures: list[Exception] = []

    def write(log: DecisionLog) -> None:
        try:
            arrivals = Arrivals(0, log.claim(shared=True))
            for n in range(12):
                (arrival,) = arrivals.take(1)
                log.append([decision(transaction(n), arrival)])  # the same ids: one of them is stored
                log.append_labels([report(n, *arrivals.take(1))])
        except Exception as error:
            failures.append(error)

    for _ in range(2 if several else 0):
        threads = [threading.Thread(target=write, args=(log,)) for log in several]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        found = verify(several[0])
        assert (found.decisions, found.labels, found.wrong) == (12, 12, 0)
        several[1].close()
        several[1] = backend.open()
    if several:
        for number in range(several[1].claim(shared=True), WRITERS):
            assert number not in {head.writer for head in verify(several[0]).heads} or number < 3


def test_the_chain_moves_with_the_log(filled: DecisionLog, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Into SQLite, so from both."""
    from fraudml.adapters.log.sqlite import SqliteDecisionLog
    from tests.support.scoring import SCHEMA

    target = SqliteDecisionLog(f"sqlite:///{tmp_path_factory.mktemp('target') / 'log.db'}", SCHEMA)
    migrate.copy(filled, target, idle=False)
    migrate.copy(filled, target)
    migrate.copy(filled, target)
    assert verify(target) == verify(filled)
    assert migrate.contents(target) == migrate.contents(filled)
    heads = verify(filled).heads
    target.append([decision(transaction(50), 50 * WRITERS)])
    found = verify(target, expected=heads)
    assert (found.wrong, found.links) == (0, 4)
    target.close()


def test_the_first_problems_are_named_and_all_are_counted(backend: Backend, log: DecisionLog) -> None:
    log.append([decision(transaction(n), n) for n in range(1, 201)])
    backend.change("UPDATE decisions SET action = 'decline'")
    found = verify(log)
    assert (found.wrong, len(found.problems)) == (200, 100)
    assert {problem.wrong for problem in found.problems} == {Wrong.altered}
    assert found.problems[0].transaction_id == "t1"
