"""What every decision log promises, over every adapter in ``adapters/log``."""

from __future__ import annotations

import pkgutil
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fraudml.adapters.log
from fraudml.decisions.keys import Scope, hash_token, new_key
from fraudml.decisions.log import AUDIT_LABELS, WRITERS, Arrivals, DecisionLog, audit_schema
from fraudml.decisions.record import Action, Decision, Degradation, LabelReport, Trial
from fraudml.errors import ConfigError, ConflictError, DecisionLogError, NotFoundError
from fraudml.events.label import Label
from fraudml.events.source import arrow_schema
from fraudml.events.transaction import Transaction
from tests.support.logs import ADAPTERS, ONE_SESSION, Backend, Open
from tests.support.scoring import FEATURES, SCHEMA, T0, ReferenceStore, decision, transaction

BLIND = (Degradation.online_store,)


def test_every_adapter_is_here() -> None:
    folder = Path(fraudml.adapters.log.__path__[0])
    modules = {m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")}
    assert modules - {"journal"} == set(ADAPTERS) - {"timescale"}  # the journal has its own port and suite


def report(number: int, arrival: int, fraud: bool = True, known: int = 10) -> LabelReport:
    return LabelReport(Label(f"t{number}", fraud, T0 + known, ("c1", "term-1")), arrival)


def test_a_decision_comes_back_as_it_was_also_after_a_restart(reopen: Open) -> None:
    made = [
        decision(transaction(1), 5),
        decision(transaction(2, customer=None, country=None, distance=None, items=None), 6, score=None),
        decision(
            transaction(3, country="ZZ \u00e9\x00\"'", distance=1e-300),
            9,
            late=True,
            arm="challenger",
            action=Action.decline,
            degraded=(Degradation.online_store, Degradation.model),
            trial=Trial(revision=7, share=0.05),
            source="transactions/3/1182",
            entered_us=7,
        ),
        decision(transaction(4), 10, trial=Trial(8, 1 / 3, explore=0.02, let_through=True)),
    ]
    reopen().append(made)
    log = reopen()
    assert log.find(["t1", "t2", "t3", "t4", "t5"]) == {d.transaction.transaction_id: d for d in made}
    assert log.decision("t3") == made[2]
    assert log.entered_before() == {9: 7}


identifiers = st.text(min_size=1, max_size=30).filter(lambda t: t.encode("utf-8", "ignore").decode() == t)
events = st.builds(
    Transaction,
    identifiers,
    st.integers(0, 7_258_118_400_000_000 - 1),
    st.tuples(st.none() | identifiers, st.none() | identifiers),
    st.none() | st.integers(-(10**12), 10**12),
    st.tuples(
        st.none() | identifiers,
        st.none() | st.floats(-1e30, 1e30),
        st.none() | st.integers(-(10**12), 10**12),
    ),
)


@given(events=st.lists(events, max_size=20, unique_by=lambda e: e.transaction_id))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_any_transaction_comes_back_and_is_replayed(reopen: Open, events: list[Transaction]) -> None:
    log = reopen()
    first = log.last_arrival() + 1
    fresh = [e for e in events if not log.find([e.transaction_id])]
    log.append([decision(event, first + i) for i, event in enumerate(fresh)])
    found = log.find([event.transaction_id for event in fresh])
    assert [found[event.transaction_id].transaction for event in fresh] == fresh
    store = ReferenceStore()
    for batch in log.replay(batch_size=7, after=first - 1):  # what other examples left is before
        store.load(batch)
    assert store.events == fresh


def test_unknown_ids_are_left_out_and_not_found(log: DecisionLog) -> None:
    assert log.find([]) == {}
    assert log.find(["nobody"]) == {}
    with pytest.raises(NotFoundError, match="nobody"):
        log.decision("nobody")


@pytest.mark.parametrize("count", [1, 2, 16, 17, 256, 257, 1_000, 2_500])
def test_any_number_of_ids_is_found(log: DecisionLog, count: int) -> None:
    log.append([decision(transaction(i), 10 + i) for i in range(count)])
    found = log.find([f"t{i}" for i in range(-3, count)])
    assert set(found) == {f"t{i}" for i in range(count)}
    assert found[f"t{count - 1}"].arrival == 9 + count


def test_of_a_known_id_the_first_decision_stands(log: DecisionLog) -> None:
    first = decision(transaction(1), 5)
    assert log.append([first]) == {}
    stands = log.append([decision(transaction(2), 6), decision(transaction(1, amount=7), 7)])
    assert stands == {"t1": first}
    assert log.find(["t1", "t2"]) == {"t1": first, "t2": decision(transaction(2), 6)}
    assert log.append([decision(transaction(1), 8)]) == {"t1": first}
    assert log.last_arrival() == 6


def test_an_arrival_taken_twice_is_refused_and_nothing_of_its_batch_is_stored(log: DecisionLog) -> None:
    log.append([decision(transaction(1), 5)])
    with pytest.raises(DecisionLogError):
        log.append([decision(transaction(2), 6), decision(transaction(3), 5)])
    assert set(log.find(["t1", "t2", "t3"])) == {"t1"}


def test_only_what_arrived_after_a_number_is_read(log: DecisionLog) -> None:
    log.append([decision(transaction(n), n) for n in (1, 2, 3)])
    log.append_labels([report(1, 4), report(3, 5)])
    for read, wanted in ((log.replay, ["t2", "t3"]), (log.audit_batches, ["t2", "t3"])):
        assert [name for batch in read(after=1) for name in batch.column("transaction_id").to_pylist()] == wanted
    assert [row["transaction_id"] for batch in log.audit_labels(after=4) for row in batch.to_pylist()] == ["t3"]


def test_no_more_than_a_number_of_rows_are_read(log: DecisionLog) -> None:
    """Of all times, ids of any length, and in batches."""
    day = 86_400_000_000
    names = ["x" * 5_000 if n % 3 == 0 else f"t{n}" for n in range(1, 8)]
    names = [f"{name}{n}" for n, name in enumerate(names)]
    events = [Transaction(name, T0 + n * n * day, (None, None), n, ("DE", 1.0, 1)) for n, name in enumerate(names)]
    log.append([decision(event, 10 + n) for n, event in enumerate(events)])
    log.append_labels([LabelReport(Label(name, True, T0 + n), 20 + n) for n, name in enumerate(names)])
    for read, first in ((log.audit_batches, 10), (log.audit_labels, 20)):
        whole = [row for batch in read() for row in _comparable(batch)]
        assert [row["transaction_id"] for row in whole] == names
        for after, limit, size in ((0, 7, 7), (0, 99, 99), (0, 3, 2), (first, 1, 5), (first + 2, 3, 3), (99, 5, 5)):
            batches = list(read(size, after, limit=limit))
            assert [row for batch in batches for row in _comparable(batch)] == [
                row for row in whole if row["arrival"] > after
            ][:limit]
            assert all(batch.num_rows <= size for batch in batches)


def _comparable(batch: pa.RecordBatch) -> list[dict[str, object]]:
    """NaN is not equal to itself."""
    return [{name: repr(value) if name == "vector" else value for name, value in r.items()} for r in batch.to_pylist()]


def test_later_labels_are_what_a_replay_after_a_number_has_no_place_for(log: DecisionLog) -> None:
    log.append([decision(transaction(n), n) for n in (1, 2, 3)])
    log.append_labels([report(1, 4), report(2, 5), report(3, 6)])
    log.append_labels([report(1, 7, fraud=False, known=30), report(3, 8, fraud=False, known=30)])
    for after, wanted in ((0, ["t1", "t3"]), (1, ["t1", "t1", "t3"]), (5, ["t3", "t1", "t3"])):
        assert [label.transaction_id for label in log.later_labels(after=after)] == wanted


def test_what_was_decided_without_history_is_found(log: DecisionLog) -> None:
    blind = {"degraded": (Degradation.registry, *BLIND)}
    log.append(
        [decision(transaction(1), 1, **blind), decision(transaction(2), 2), decision(transaction(3), 3, **blind)]
    )
    log.append([decision(transaction(4), 4, degraded=(Degradation.registry,))])
    for after, wanted in ((0, ["t1", "t3"]), (1, ["t3"]), (3, [])):
        found = [batch.column("transaction_id").to_pylist() for batch in log.replay(after=after, blind=True)]
        assert [name for names in found for name in names] == wanted


def test_reports_are_listed_with_their_entities(log: DecisionLog) -> None:
    log.append([decision(transaction(n), n) for n in (1, 2)])
    log.append_labels([report(1, 10), report(2, 11), report(1, 12, fraud=False, known=30)])
    listed = [(label.transaction_id, label.is_fraud, label.entities) for label in log.labels(after=10)]
    assert listed == [("t2", True, transaction(2).entities), ("t1", False, transaction(1).entities)]
    assert len(list(log.labels())) == 3


def test_an_empty_append_is_nothing(log: DecisionLog) -> None:
    log.append([])
    assert log.append_labels([]) == []
    assert log.last_arrival() == 0
    assert list(log.replay()) == []
    assert list(log.audit_batches()) == []


def test_what_is_news_does_not_depend_on_how_many_reports_come_at_once(log: DecisionLog) -> None:
    """The one that arrived last tells, not the one that was stored last."""
    log.append([decision(transaction(number), number) for number in (1, 2)])
    order = [(20, True), (40, False), (30, True), (35, False)]
    one, two = ([report(n, 100 * n + at, fraud, known=at) for at, fraud in order] for n in (1, 2))
    assert [found for each in one for found in log.append_labels([each])] == one[:3]
    assert log.append_labels(two) == two[:3]


def test_a_repeated_verdict_is_ignored_and_a_new_one_is_a_report(log: DecisionLog) -> None:
    log.append([decision(transaction(1), 1), decision(transaction(2), 2)])
    first, repeat, reversal = report(1, 10), report(1, 11, known=20), report(1, 12, fraud=False, known=30)
    assert log.append_labels([first, repeat, report(2, 13)]) == [first, report(2, 13)]
    assert log.append_labels([repeat]) == []
    assert log.append_labels([reversal]) == [reversal]
    assert log.append_labels([report(1, 14)]) == []  # a retry of the first report, after the reversal
    history = log.label_history("t1")
    assert [(r.label.is_fraud, r.label.known_at_us, r.arrival) for r in history] == [
        (True, T0 + 10, 10),
        (False, T0 + 30, 12),
    ]
    assert log.label_history("t3") == []


def test_a_label_of_an_unknown_transaction_is_refused_with_its_batch(log: DecisionLog) -> None:
    log.append([decision(transaction(1), 1)])
    with pytest.raises(DecisionLogError):
        log.append_labels([report(1, 2), report(9, 3)])
    assert log.label_history("t1") == []


def test_arrivals_count_decisions_and_labels(reopen: Open) -> None:
    log = reopen()
    log.append([decision(transaction(1), 2**53 + 1)])
    assert reopen().last_arrival() == 2**53 + 1
    reopen().append_labels([report(1, 2**53 + 3)])
    assert reopen().last_arrival() == 2**53 + 3


def test_all_decisions_are_read_as_they_were_made(log: DecisionLog) -> None:
    assert list(log.decisions()) == []
    made = [
        decision(
            transaction(n),
            n,
            late=n == 2,
            degraded=BLIND if n == 3 else (),
            trial=Trial(1, 0.5) if n > 5 else None,
        )
        for n in range(1, 8)
    ]
    log.append(made[::-1])
    log.append_labels([report(1, 10)])
    assert [each for batch in log.decisions(batch_size=3) for each in batch] == made
    assert [each for batch in log.decisions(after=5) for each in batch] == made[5:]
    assert (log.last_arrival(labels=False), log.last_arrival()) == (7, 10)


def test_all_ids_are_listed(log: DecisionLog) -> None:
    assert list(log.transaction_ids()) == []
    log.append([decision(transaction(n), n) for n in (3, 1, 2)])
    assert sorted(log.transaction_ids()) == ["t1", "t2", "t3"]


def test_replay_rebuilds_an_online_store(reopen: Open) -> None:
    log = reopen()
    live = ReferenceStore()
    numbers = list(range(40))
    random.Random(3).shuffle(numbers)
    made = [transaction(n, customer=f"c{n % 3}" if n % 5 else None) for n in numbers]
    log.append([decision(event, 100 + i) for i, event in enumerate(made)])
    live.read_then_update(made)
    reports = [report(i, 200 + i, fraud=i % 2 == 0, known=i + 1) for i in range(0, 40, 3)]
    reports += [report(i, 300 + i, fraud=i % 2 == 1, known=i + 100) for i in range(0, 40, 6)]
    reports = [
        LabelReport(Label(r.label.transaction_id, r.label.is_fraud, r.label.known_at_us, _keys(made, r)), r.arrival)
        for r in reports
    ]
    assert log.append_labels(reports) == reports
    live.add_labels([r.label for r in reports])

    rebuilt = ReferenceStore()
    log = reopen()
    batches = list(log.replay(batch_size=7))
    assert all(batch.schema == arrow_schema(SCHEMA) for batch in batches)
    for batch in batches:
        rebuilt.load(batch)
    later = list(log.later_labels())
    assert [label.transaction_id for label in later] == [f"t{i}" for i in range(0, 40, 6)]
    rebuilt.add_labels(later)
    assert rebuilt.events == made
    assert sorted(rebuilt.labels, key=str) == sorted(live.labels, key=str)


def _keys(made: list[Transaction], item: LabelReport) -> tuple[str | None, ...]:
    return next(e.entities for e in made if e.transaction_id == item.label.transaction_id)


def test_the_audit_sees_vectors_models_and_arrivals(log: DecisionLog) -> None:
    log.append(
        [
            decision(transaction(2), 20, vector=np.array([1.0, 2.0]).tobytes(), fingerprint="other"),
            decision(transaction(1), 21, score=None, degraded=BLIND, late=True, model_version="2"),
        ]
    )
    log.append_labels([report(1, 30, known=5), report(2, 31, fraud=False, known=6)])
    log.append_labels([report(1, 32, fraud=False, known=7)])
    (batch,) = log.audit_batches()
    assert batch.schema == audit_schema(SCHEMA)
    rows = batch.to_pylist()
    assert [r["arrival"] for r in rows] == [20, 21]
    assert rows[0]["vector"] == [1.0, 2.0]
    assert rows[1]["vector"][0] == 1.5
    assert np.isnan(rows[1]["vector"][1])
    assert [(r["fingerprint"], r["blind"], r["late"], r["model_version"]) for r in rows] == [
        ("other", False, False, "1"),
        (FEATURES.fingerprint, True, True, "2"),
    ]
    assert rows[0]["score"] == 0.1 + 0.2
    assert rows[1]["score"] is None
    assert (rows[0]["customer"], rows[0]["distance"], rows[0]["decided_at_us"]) == ("c1", 2.5, 27)
    (labels,) = log.audit_labels()
    assert labels.schema == AUDIT_LABELS
    assert [tuple(r.values()) for r in labels.to_pylist()] == [
        ("t1", T0 + 1_000_000, True, T0 + 5, 30),
        ("t2", T0 + 2_000_000, False, T0 + 6, 31),
        ("t1", T0 + 1_000_000, False, T0 + 7, 32),
    ]


def test_readers_and_the_writer_do_not_disturb_each_other(log: DecisionLog, backend: Backend) -> None:
    if backend.one_session:
        pytest.skip(ONE_SESSION)
    stop, failures = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                log.find(["t0", "t1"])
                list(log.replay(batch_size=10))
        except Exception as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(60):
        log.append([decision(transaction(i), 10 + i)])
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    assert len(log.find([f"t{i}" for i in range(60)])) == 60


def test_one_process_appends_until_it_ends(reopen: Open, backend: Backend) -> None:
    if backend.one_session:
        pytest.skip(ONE_SESSION)
    log = reopen()
    log.claim()
    log.claim()  # it has it
    other = backend.open()
    with pytest.raises(ConfigError, match="another fraudml process"):
        other.claim()
    assert other.find(["t1"]) == {}  # others may read, and make keys
    other.keys.add(new_key("other", [Scope.read])[1])
    log.close()
    other.claim()
    other.close()
    reopen().claim()


@pytest.fixture
def several(backend: Backend) -> Iterator[list[DecisionLog]]:
    """The same log, opened by several processes that may all append; empty where only one may."""
    logs = [backend.open() for _ in range(4)] if backend.shared else []
    yield logs
    for log in logs:
        log.close()


def test_a_log_of_one_process_is_not_shared(backend: Backend) -> None:
    if not backend.shared:
        log = backend.open()
        with pytest.raises(ConfigError, match="one process"):
            log.claim(shared=True)
        log.close()


def test_each_process_has_a_number_of_its_own(several: list[DecisionLog]) -> None:
    numbers = [log.claim(shared=True) for log in several]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < WRITERS for number in numbers)
    assert [log.claim(shared=True) for log in several] == numbers


def test_of_one_id_decided_by_several_processes_one_decision_stands(
    several: list[DecisionLog], backend: Backend
) -> None:
    """Each appends the same ids, in an order of its own; all are told the same."""
    if backend.one_session:
        pytest.skip(ONE_SESSION)
    rounds, ids = 15, 30
    together = threading.Barrier(max(len(several), 1))
    stands: list[dict[str, Decision]] = [{} for _ in several]
    failures: list[Exception] = []

    def append(number: int) -> None:
        arrivals = Arrivals(0, several[number].claim(shared=True))
        order = random.Random(number)
        try:
            for turn in range(rounds):
                numbers = [turn * ids + i for i in range(ids)]
                order.shuffle(numbers)
                made = [decision(transaction(n), arrivals.take(1)[0]) for n in numbers]
                together.wait(30)
                others = several[number].append(made)
                stands[number] |= {d.transaction.transaction_id: d for d in made} | others
        except Exception as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=append, args=(number,)) for number in range(len(several))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for log, told in zip(several, stands, strict=True):
        assert len(told) == rounds * ids
        assert log.find([*told]) == told
    if several:
        assert len({d.arrival % WRITERS for d in stands[0].values()}) > 1  # each was faster now and then
        arrivals = [a for batch in several[0].audit_batches() for a in batch.column("arrival").to_pylist()]
        assert arrivals == sorted(d.arrival for d in stands[0].values())


def test_a_label_reported_by_several_processes_is_one_report(several: list[DecisionLog]) -> None:
    if several:
        several[0].append([decision(transaction(n), n + 1) for n in range(200)])
    together = threading.Barrier(max(len(several), 1))
    news: list[list[LabelReport]] = [[] for _ in several]
    failures: list[Exception] = []

    def tell(number: int) -> None:
        try:
            for turn in range(20):
                numbers = random.Random(number + turn).sample(range(turn * 10, turn * 10 + 10), 10)
                reports = [report(n, 1_000 + n * 8 + number, fraud=bool((n + number) % 2)) for n in numbers]
                together.wait(30)
                news[number] += several[number].append_labels(reports)
        except Exception as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=tell, args=(number,)) for number in range(len(several))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for n in range(200 if several else 0):
        history = several[0].label_history(f"t{n}")
        told = [each.label.is_fraud for each in history]
        assert len(told) == 2
        assert told[0] is not told[1]  # both verdicts, each once, whoever was first
        reported = [each.arrival for found in news for each in found if each.label.transaction_id == f"t{n}"]
        assert sorted(each.arrival for each in history) == sorted(reported)


def test_a_ping_tells_whether_the_log_can_be_read(log: DecisionLog, backend: Backend) -> None:
    log.ping()
    log.append([decision(transaction(1), 1)])
    log.ping()
    backend.lose()
    with pytest.raises(DecisionLogError):
        log.ping()


def test_keys_are_kept_without_their_token(reopen: Open, backend: Backend) -> None:
    token, key = new_key("laptop", [Scope.read, Scope.score])
    log = reopen()
    log.keys.add(key)
    log.close()
    stored = backend.stored()
    assert key.name.encode() in stored
    assert token.encode() not in stored
    assert token.removeprefix("fml_").encode() not in stored
    assert reopen().keys.all() == [key]
    assert key.token_hash == hash_token(token)


def test_a_key_keeps_its_end(log: DecisionLog) -> None:
    _, ends = new_key("ends", [Scope.score], lasts_us=1_000_000)
    _, stays = new_key("stays", [Scope.score])
    for key in (ends, stays):
        log.keys.add(key)
    found = {key.name: key for key in log.keys.all()}
    assert found == {"ends": ends, "stays": stays}
    assert ends.expires_at_us == ends.created_at_us + 1_000_000
    assert not stays.expired


def test_a_key_is_revoked_once(log: DecisionLog) -> None:
    names = ("b", "a")
    for name in names:
        log.keys.add(new_key(name, [Scope.score])[1])
    log.keys.revoke("a")
    revoked = {key.name: key.revoked_at_us for key in log.keys.all()}
    assert revoked["b"] is None
    assert revoked["a"] is not None
    log.keys.revoke("a")
    assert {key.name: key.revoked_at_us for key in log.keys.all()} == revoked
    with pytest.raises(NotFoundError, match="nobody"):
        log.keys.revoke("nobody")


def test_a_key_name_is_taken_for_good(log: DecisionLog) -> None:
    log.keys.add(new_key("ci", [Scope.score])[1])
    log.keys.revoke("ci")
    with pytest.raises(ConflictError, match="ci"):
        log.keys.add(new_key("ci", [Scope.score])[1])
