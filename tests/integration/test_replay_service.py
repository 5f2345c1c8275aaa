"""History replayed to a running service: order, labels, what it refuses, and what it asks to send later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from fraudml import wiring
from fraudml.adapters.receiver import http as receiver_http
from fraudml.adapters.receiver.http import HttpReceiver
from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import ConfigError, FraudmlError
from fraudml.events.label import Label
from fraudml.events.receiver import Item
from fraudml.events.transaction import Transaction
from fraudml.operations.playback.pace import Pace
from fraudml.operations.playback.player import Played, Player
from fraudml.operations.playback.timeline import Event, ItemWriter
from tests.support.scoring import SCHEMA, SECOND, T0, transaction
from tests.support.server import Service
from tests.support.waiting import until


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    made.stop()


def key_of(service: Service) -> str:
    token, key = new_key("replay", [Scope.score, Scope.label])
    service.log.keys.add(key)
    return token


def play(receiver: HttpReceiver, events: Sequence[Event], ending: threading.Event | None = None) -> Played:
    return Player(receiver, ItemWriter(SCHEMA), Pace(), ending or threading.Event()).play(events, len(events))


def history(count: int) -> Iterator[Event]:
    """Transactions of three customers; the label of each comes three transactions later."""
    waiting: list[Label] = []
    for number in range(count):
        event = transaction(number, customer=f"c{number % 3}")
        while waiting and waiting[0].known_at_us < event.event_time_us:
            yield waiting.pop(0)
        yield event
        known_us = event.event_time_us + 3 * SECOND
        waiting.append(Label(event.transaction_id, number % 4 == 0, known_us, event.entities))
    yield from waiting


def test_a_service_decides_what_the_file_says(service: Service) -> None:
    receiver = HttpReceiver(f"http://127.0.0.1:{service.port}", key_of(service), 4, threading.Event())
    events = list(history(60))
    played = play(receiver, events)
    assert (played.transactions, played.labels, played.refused, played.ended) == (60, 60, {}, False)
    logged = service.log.find([f"t{number}" for number in range(60)])
    assert [logged[f"t{number}"].transaction for number in range(60)] == [
        event for event in events if isinstance(event, Transaction)
    ]
    assert len(service.store.labels) == 60
    # each customer's transactions arrived in order, so none of theirs was counted late by its own customer
    by_customer = [event for event in service.store.events if event.entities[0] == "c1"]
    assert by_customer == sorted(by_customer, key=lambda event: event.event_time_us)


def test_no_transaction_overtakes_a_label_that_it_may_know(service: Service) -> None:
    seen: list[tuple[str, int]] = []
    add_labels, read = service.store.add_labels, service.store.read_then_update

    def labels(given: Sequence[Label], *, again: bool = False) -> None:
        seen.extend(("label", label.known_at_us) for label in given)
        add_labels(given, again=again)

    def update(given: Sequence[Transaction]) -> object:
        seen.extend(("transaction", event.event_time_us) for event in given)
        return read(given)

    service.store.add_labels = labels  # type: ignore[method-assign]
    service.store.read_then_update = update  # type: ignore[method-assign,assignment]
    play(HttpReceiver(f"http://127.0.0.1:{service.port}", key_of(service), 8, threading.Event()), list(history(40)))
    known = [(place, time_us) for place, (kind, time_us) in enumerate(seen) if kind == "label"]
    for place, time_us in known:
        assert all(later > time_us or kind == "label" for kind, later in seen[place + 1 :])
        assert all(earlier <= time_us for kind, earlier in seen[:place])


def test_refusals_are_counted_by_what_is_wrong(service: Service) -> None:
    far = transaction(10**9)
    events: list[Event] = [
        transaction(1),
        transaction(1, amount=99),
        transaction(2),
        far,
        Label("nobody", True, T0),
        Label("t1", True, T0 + SECOND),
    ]
    played = play(HttpReceiver(f"http://127.0.0.1:{service.port}", key_of(service), 2, threading.Event()), events)
    assert (played.transactions, played.labels) == (2, 1)
    told = {reason.partition(",")[0]: count for reason, count in played.refused.items()}
    assert told == {
        "409 Conflict": 1,
        "422 time: expected a time at most 86400 s ahead of this server's clock": 1,
        "404 Not Found": 1,
    }
    assert played.examples["404 Not Found"] == "nobody"


def test_a_key_that_may_not_is_told_at_once(service: Service) -> None:
    for token in ("fml_wrong", service.tokens["read"]):
        receiver = HttpReceiver(f"http://127.0.0.1:{service.port}", token, 2, threading.Event())
        played = play(receiver, list(history(30)))
        assert isinstance(played.failure, ConfigError)
        assert "refuses the key" in str(played.failure)
        assert token not in str(played.failure)
        assert played.resume_us == T0


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "http://host:port", "http://u:p@host:80", "http://host/v1", "x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write --to kafka"):
        wiring.http_receiver(url, "key", 1, threading.Event())


class Stub:
    """A server that answers as told: ``answers`` gives status and ``Retry-After`` of the n-th request."""

    def __init__(self, answers: Callable[[int], tuple[int, str | None]]) -> None:
        self.bodies: list[tuple[float, bytes]] = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.bodies.append((time.monotonic(), body))
                status, after = answers(len(stub.bodies))
                self.send_response(status)
                if after is not None:
                    self.send_header("Retry-After", after)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_what_is_turned_away_is_sent_again_after_the_time_that_was_told() -> None:
    stub = Stub(lambda count: (429, "1") if count == 2 else (503, None) if count in (5, 6) else (200, None))
    try:
        played = play(HttpReceiver(stub.url, "key", 1, threading.Event()), [transaction(number) for number in range(6)])
    finally:
        stub.close()
    assert (played.transactions, played.refused, played.ended) == (6, {}, False)
    sent = [msgspec.json.decode(body)["tx_id"] for _, body in stub.bodies]
    assert sent == ["t0", "t1", "t1", "t2", "t3", "t3", "t3", "t4", "t5"]
    times = [at for at, _ in stub.bodies]
    assert times[2] - times[1] >= 1.0
    assert times[5] - times[4] >= receiver_http.RETRY_S


def test_a_service_that_takes_nothing_is_given_up_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_http, "GIVE_UP_S", 0.5)
    monkeypatch.setattr(receiver_http, "RETRY_S", 0.1)
    stub = Stub(lambda count: (200, None) if count <= 2 else (503, None))
    try:
        played = play(HttpReceiver(stub.url, "key", 1, threading.Event()), [transaction(number) for number in range(6)])
    finally:
        stub.close()
    assert isinstance(played.failure, FraudmlError)
    assert "takes nothing for 0.5 s: it answers 503" in str(played.failure)
    assert (played.transactions, played.resume_us) == (2, T0 + 2 * SECOND)
    gone = play(HttpReceiver(stub.url, "key", 2, threading.Event()), [transaction(1)])
    assert "cannot be reached" in str(gone.failure)


def test_what_is_no_service_of_ours_is_told() -> None:
    stub = Stub(lambda count: (200, None))
    try:
        events = [transaction(1), Label("t1", True, T0 + 5 * SECOND)]
        played = play(HttpReceiver(stub.url, "key", 1, threading.Event()), events)
    finally:
        stub.close()
    assert "answers labels otherwise" in str(played.failure)
    with pytest.raises(ConfigError, match="copied whole"):
        HttpReceiver(stub.url, "a key\n", 1, threading.Event())


def test_the_end_comes_at_once_while_the_service_asks_to_wait() -> None:
    ending = threading.Event()
    stub = Stub(lambda count: (200, None) if count <= 3 else (429, "3600"))

    def end() -> None:
        until(lambda: len(stub.bodies) >= 4)
        ending.set()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        receiver = HttpReceiver(stub.url, "key", 1, ending)
        started = time.monotonic()
        played = play(receiver, [transaction(number) for number in range(500)], ending)
    finally:
        thread.join()
        stub.close()
    assert time.monotonic() - started < 20
    assert (played.transactions, played.ended, played.failure) == (3, True, None)
    assert played.resume_us == T0 + 3 * SECOND


def test_items_of_one_key_go_one_after_the_other() -> None:
    stub = Stub(lambda count: (200, None))
    told: list[str | None] = []
    receiver = HttpReceiver(stub.url, "key", 5, threading.Event())
    try:
        for number in range(100):
            body = msgspec.json.encode({"key": number % 4, "number": number})
            assert receiver.send(Item(False, number, f"t{number}", f"c{number % 4}", body), told.append)
        receiver.flush()
        receiver.close()
    finally:
        stub.close()
    assert told == [None] * 100
    sent = [msgspec.json.decode(body) for _, body in stub.bodies]
    for key in range(4):
        numbers = [each["number"] for each in sent if each["key"] == key]
        assert numbers == sorted(numbers)
        assert len(numbers) == 25
