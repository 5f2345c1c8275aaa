"""``/v1/batch-predict`` at its limit: ten thousand transactions, streams, failures in the middle, others beside."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudml.adapters.online.memory import MemoryOnlineStore
from fraudml.decisions.answer import Prediction
from fraudml.decisions.record import Decision
from fraudml.errors import DecisionLogError
from fraudml.service.answers import ItemError
from fraudml.service.batch import NDJSON, PART, PARTS_WAITING
from fraudml.service.pipeline import MOST_TOGETHER
from tests.support.scoring import FEATURES, row
from tests.support.server import Service
from tests.support.waiting import until

MANY = 10_000
CUSTOMERS = 50
URL = "/v1/batch-predict"
LINES = {"Accept": NDJSON}
START = datetime(2024, 5, 1, tzinfo=UTC)

Start = Callable[..., Service]
Append = Callable[[Sequence[Decision]], None]


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """The documented answer, with each result's own bytes."""

    results: list[msgspec.Raw]
    scored: int
    failed: int

    @property
    def each(self) -> list[bytes]:
        return [bytes(result) for result in self.results]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts services with the store that is used in earnest: the reference would take minutes."""
    monkeypatch.setattr("tests.support.server.ReferenceStore", lambda: MemoryOnlineStore(FEATURES))
    running: list[Service] = []

    def run(**settings: Any) -> Service:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Service(folder, deadline_ms=30_000, **settings))
        return running[-1]

    yield run
    for service in running:
        service.stop()


@pytest.fixture
def service(start: Start) -> Service:
    return start()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, nothing may be left behind that asyncio or the server complain about."""
    with caplog.at_level(logging.WARNING):
        yield
        gc.collect()  # asyncio complains about a task's exception when the task goes
    complaints = [r for r in caplog.records if not r.name.startswith("fraudml") and r.levelno >= logging.WARNING]
    assert [record.getMessage() for record in complaints] == []


def many(count: int = MANY, **changes: Any) -> list[dict[str, Any]]:
    """Transactions of some customers, one a second."""
    return [
        row(n, time=(START + timedelta(seconds=n)).isoformat(), cust_no=f"c{n % CUSTOMERS}", **changes)
        for n in range(count)
    ]


def whole(service: Service, rows: list[dict[str, Any]]) -> Answer:
    """The answer in one document."""
    answer = service.client.post(URL, json={"transactions": rows})
    assert answer.status_code == 200, answer.text
    return msgspec.json.decode(answer.content, type=Answer)


def lines(service: Service, rows: list[dict[str, Any]]) -> list[bytes]:
    """The lines of the answer as a stream."""
    answer = service.client.post(URL, json={"transactions": rows}, headers=LINES)
    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    assert answer.content.endswith(b"\n") or not rows
    return answer.content.splitlines()


def as_documented(result: bytes) -> Prediction | ItemError:
    kind = ItemError if b'"error"' in result else Prediction
    return msgspec.json.decode(result, type=kind)


def logged(service: Service) -> list[str]:
    return [key for batch in service.log.replay() for key in batch.column("transaction_id").to_pylist()]


class Gate:
    """Lets the thread that decides pass until ``after`` transactions were decided, then holds it."""

    def __init__(self, service: Service, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.decided = 0
        decide = service.state.scorer.decide

        def held(batch: Sequence[Any]) -> Any:
            if self.decided >= after:
                self.reached.set()
                assert self.open.wait(60)
            self.decided += len(batch)
            return decide(batch)

        monkeypatch.setattr(service.state.scorer, "decide", held)


def test_ten_thousand_are_decided_in_order_and_again_with_the_same_bytes(start: Start) -> None:
    one, other = start(), start()
    rows = many()
    first = whole(one, rows)
    assert (first.scored, first.failed) == (MANY, 0)
    decoded = [as_documented(result) for result in first.each]
    assert [result.transaction_id for result in decoded] == [each["tx_id"] for each in rows] == logged(one)
    assert whole(one, rows).each == first.each
    assert lines(one, rows) == first.each
    streamed = lines(other, rows)
    assert whole(other, rows).each == streamed
    unlike = {"decided_at": START}
    for a, b in zip(decoded, map(as_documented, streamed), strict=True):
        assert msgspec.structs.replace(a, **unlike) == msgspec.structs.replace(b, **unlike)
    # the 200th transaction of a customer sees the 199 before
    assert [result.score for result in decoded[: 2 * CUSTOMERS : CUSTOMERS]] != [
        result.score for result in decoded[-2 * CUSTOMERS :: CUSTOMERS]
    ]


def test_one_more_than_the_limit_is_413(service: Service) -> None:
    answer = service.client.post(URL, json={"transactions": many(MANY + 1)}, headers=LINES)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert logged(service) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_wrong_with_one_does_not_stop_the_others(service: Service, streamed: bool) -> None:
    service.client.post("/v1/predict", json=row(900)).raise_for_status()
    rows: list[Any] = many(1_000)
    rows[0] = 7
    rows[150] = row(150, amount=-1)
    rows[PART - 1] = rows[1] | {"items": 4}  # the same id with other content, in the same part
    rows[555] = rows[5]  # the same again, parts later
    rows[777] = rows[7] | {"amount": 3.0}  # the same id with other content, parts later
    results = lines(service, rows) if streamed else whole(service, rows).each
    found = [as_documented(result) for result in results]
    assert len(found) == 1_000
    failed = {result.index: result.error for result in found if isinstance(result, ItemError)}
    statuses = {0: 422, 150: 422, PART - 1: 409, 777: 409, 900: 409}
    assert {index: error.status for index, error in failed.items()} == statuses
    assert failed[150].errors[0].path == "transactions[150].amount"
    assert results[555] == results[5]
    assert len(logged(service)) == len(set(logged(service))) == 1_000 - len(failed) - 1 + 1


def test_a_single_one_beside_ten_thousand_waits_for_a_few_parts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(service, monkeypatch, after=1_000)
    waiting = service.state.pipeline._waiting
    with ThreadPoolExecutor(2) as pool:
        all_of_them = pool.submit(whole, service, many())
        assert gate.reached.wait(60)
        until(lambda: len(waiting) >= 1)
        single = pool.submit(service.as_("admin").post, "/v1/predict", json=row(1, tx_id="single"))
        until(lambda: any(len(request.transactions) == 1 for request in list(waiting)))
        gate.open.set()
        assert single.result(60).status_code == 200
        assert all_of_them.result(60).scored == MANY
    before = logged(service).index("single")
    assert 1_000 <= before <= 1_000 + 2 * MOST_TOGETHER + PARTS_WAITING * PART


def test_a_client_that_hangs_up_in_a_stream_leaves_nothing_behind(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(service, monkeypatch, after=1_000)
    body = msgspec.json.encode({"transactions": many()})
    head = (
        f"POST {URL} HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.tokens['score']}\r\n"
        f"Accept: {NDJSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200 ")
        assert gate.reached.wait(60)
    metric = 'fraud_http_requests_total{route="/v1/batch-predict"'
    until(lambda: metric in service.client.get("/metrics").text)  # the request is over, while a part is being decided
    gate.open.set()
    assert service.client.post("/v1/predict", json=row(1, tx_id="next")).status_code == 200
    assert len(logged(service)) <= 1_000 + 2 * MOST_TOGETHER + 1
    assert _tasks(service, "_decide_part") == 0


def test_a_defect_in_a_batch_is_503_and_leaves_nothing_behind(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(service.state.scorer, "decide", _raise(ZeroDivisionError("secret")))
        refused = service.client.post(URL, json={"transactions": many(1_000)})
    assert refused.status_code == 503
    assert "secret" not in refused.text
    until(lambda: any(r.exc_info for r in caplog.records))  # the answer comes first
    assert [(r.name, r.message) for r in caplog.records if r.exc_info] == [("fraudml.service", "unexpected failure")]
    assert _tasks(service, "_decide_part") == 0
    assert whole(service, many(1_000)).scored == 1_000


def test_what_cannot_be_kept_in_the_middle_of_a_batch_is_503_for_each(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 2_000
    rows = many(count)
    refusals = itertools.chain([True, True], itertools.repeat(False))
    to_log, to_journal = service.log.append, service.journal.append

    def has_t500(decisions: Sequence[Decision]) -> bool:
        return any(decision.transaction.transaction_id == "t500" for decision in decisions)

    def gone(decisions: Sequence[Decision]) -> Sequence[Decision]:
        if has_t500(decisions):
            raise DecisionLogError("gone")
        return to_log(decisions)

    def full_twice(decisions: Sequence[Decision]) -> None:
        if has_t500(decisions) and next(refusals):
            raise DecisionLogError("disk full")
        to_journal(decisions)

    with monkeypatch.context() as patch:
        patch.setattr(service.log, "append", gone)
        patch.setattr(service.journal, "append", full_twice)
        first = whole(service, rows)
        found = [as_documented(result) for result in first.each]
        failed = {result.index: result.error for result in found if isinstance(result, ItemError)}
        assert {error.status for error in failed.values()} == {503}
        assert 500 in failed
        # whole parts: the one with t500, and what was under way when the journal refused it again
        assert set(failed) == {place for n in failed for place in range(n - n % PART, n - n % PART + PART)}
        assert set(failed) <= set(range(500 - MOST_TOGETHER, 1_500))
        assert (first.scored, first.failed) == (count - len(failed), len(failed))
        again = whole(service, rows)
    assert (again.scored, again.failed) == (count, 0)
    for number in set(range(count)) - set(failed):
        assert again.each[number] == first.each[number]
    # the state that a later transaction sees has each of them once, whether its answer was a decision or a 503
    after = row(1, tx_id="after", time=(START + timedelta(seconds=count)).isoformat(), cust_no="c0")
    service.client.post("/v1/predict", json=after).raise_for_status()
    shown = service.as_("read").get("/v1/decisions/after")  # from the journal, if it is there yet
    assert shown.status_code == 200
    assert shown.json()["features"]["n_1d"] == count / CUSTOMERS
    assert whole(service, rows).each == again.each


@pytest.mark.parametrize("streamed", [False, True])
def test_when_nothing_can_be_kept_all_is_503(service: Service, monkeypatch: pytest.MonkeyPatch, streamed: bool) -> None:
    rows = many(1_000)
    with monkeypatch.context() as patch:
        for place in (service.log, service.journal):
            patch.setattr(place, "append", _raise(DecisionLogError("secret path")))
        answer = service.client.post(URL, json={"transactions": rows}, headers=LINES if streamed else {})
    assert "secret" not in answer.text
    if streamed:  # its status was sent before the first part was decided
        found = [as_documented(line) for line in answer.content.splitlines()]
        told = [(result.index, result.transaction_id, result.error.status) for result in found]
        assert told == [(n, f"t{n}", 503) for n in range(1_000)]
    else:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
    first = whole(service, rows)
    assert first.scored == 1_000
    assert whole(service, rows).each == first.each


def test_server_timing_names_every_stage(start: Start) -> None:
    assert "server-timing" not in start().client.post("/v1/predict", json=row(1)).headers
    timed = start(server_timing=True).client.post("/v1/predict", json=row(1))
    stages = dict(part.split(";dur=") for part in timed.headers["server-timing"].split(", "))
    assert list(stages) == ["decode", "queue", "find", "state", "model", "log", "total"]
    milliseconds = {name: float(text) for name, text in stages.items()}
    assert min(milliseconds.values()) >= 0
    total = milliseconds.pop("total")
    assert sum(milliseconds.values()) <= total + 0.01


def _tasks(service: Service, name: str) -> int:
    """How many tasks of a coroutine the service's event loop has."""
    loop = service.state.pipeline._loop
    assert loop is not None

    async def count() -> int:
        return sum(name in repr(task.get_coro()) for task in asyncio.all_tasks())

    return asyncio.run_coroutine_threadsafe(count(), loop).result(60)


def _raise(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail
