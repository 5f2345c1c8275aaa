"""Requests that nobody should send, over raw connections: never a failure of ours, nor one for those who follow."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from tests.support.scoring import row
from tests.support.server import Service

ROUTES = ["/v1/predict", "/v1/batch-predict", "/v1/labels", "/v1/explain"]
REFUSED = {400, 404, 405, 408, 409, 413, 415, 422}  # 400 is uvicorn's own, for what is not sound HTTP
LABEL = {"transaction_id": "t1", "is_fraud": True, "known_at": "2024-05-02T00:00:00Z"}
_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*((?:\r\n[^\r]+)*)\r\n\r\n")
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding: *chunked", re.IGNORECASE | re.MULTILINE)
_REQUEST_ID = re.compile(rb"^x-request-id: *(\S+)", re.IGNORECASE | re.MULTILINE)
# Without shrinking: a connection that gets no answer is waited for, and shrinking would do so hundreds of times.
_fuzzed = settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate],
)


class Reply(NamedTuple):
    """One answer as it came."""

    status: int
    head: bytes
    body: bytes

    @property
    def request_id(self) -> str:
        found = _REQUEST_ID.search(self.head)
        return found[1].decode() if found else ""


class Kept(logging.Handler):
    """Every record that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Target:
    """A running service, what it logs, and ways to talk to it below HTTP clients, which send only what is right."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.log = Kept()
        self.numbers = itertools.count(1)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.service.port), timeout=30)

    def request(
        self, path: str, body: bytes, *headers: bytes, method: str = "POST", length: str | None = None
    ) -> bytes:
        """A request that may score and label, with these headers beside the usual ones."""
        lines = [f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {self.service.tokens['admin']}".encode(), *headers]
        if length != "":
            lines.append(f"Content-Length: {len(body) if length is None else length}".encode())
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def send(self, *writes: bytes, replies: int = 1) -> list[Reply]:
        """What came back: this many answers, or those until the service closed the connection."""
        with self.connect() as connection:
            try:
                for write in writes:
                    connection.sendall(write)
            except OSError:
                pass  # it may answer and close before it has read all
            return _read(connection, replies)

    def new_row(self, **changes: Any) -> dict[str, Any]:
        """The first transaction of a customer, whose score is known."""
        number = next(self.numbers)
        return row(1, tx_id=f"good-{number}", cust_no=f"good-{number}", **changes)

    def is_well(self) -> None:
        """It answers, rightly; its threads live; nothing was logged that should not be."""
        answer = self.service.client.post("/v1/predict", json=self.new_row())
        assert answer.status_code == 200, answer.text
        _check_good(answer.content)
        assert [thread.name for thread in self.service.state.pipeline._threads if thread.is_alive()] == [
            "decide",
            "commit",
        ]
        for record in self.log.records:
            assert record.levelno < logging.ERROR, record.getMessage()
            assert not record.exc_info, record.getMessage()
            assert "Traceback" not in record.getMessage()
        self.log.records.clear()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    service = Service(tmp_path_factory.mktemp("fuzz"))
    service.client.post("/v1/predict", json=row(1)).raise_for_status()
    made = Target(service)
    loggers = [logging.getLogger(name) for name in ("fraudml", "uvicorn", "asyncio")]
    for logger in loggers:
        logger.addHandler(made.log)
    yield made
    service.stop()
    for logger in loggers:
        logger.removeHandler(made.log)
    assert [record.getMessage() for record in made.log.records if record.levelno >= logging.ERROR] == []


def _read(connection: socket.socket, count: int) -> list[Reply]:
    found: list[Reply] = []
    rest = b""
    while len(found) < count:
        reply, rest = _first(rest)
        if reply is not None:
            if reply.status != 100:
                found.append(reply)
            continue
        try:
            more = connection.recv(65_536)
        except ConnectionError:
            break
        if not more:
            break
        rest += more
    return found


def _first(raw: bytes) -> tuple[Reply | None, bytes]:
    """The first whole answer of some bytes, and what follows it."""
    head = _HEAD.match(raw)
    if head is None:
        return None, raw
    rest = raw[head.end() :]
    if head[1] == b"100":
        return Reply(100, head[2], b""), rest
    if _CHUNKED.search(head[2]):
        size = rest.find(b"0\r\n\r\n") + 5
        return (None, raw) if size < 5 else (Reply(int(head[1]), head[2], rest[:size]), rest[size:])
    length = _LENGTH.search(head[2])
    size = int(length[1]) if length else len(rest)
    return (None, raw) if len(rest) < size else (Reply(int(head[1]), head[2], rest[:size]), rest[size:])


def _check_good(body: bytes) -> None:
    assert math.isclose(json.loads(body)["score"], 1 / (1 + math.exp(2)), rel_tol=1e-6)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()  # it also writes what JSON forbids: NaN, Infinity, lone surrogates


# Bodies: sound ones, and what a few edits make of them.
SOUND = [_json(row(1)), _json({"transactions": [row(1), row(2)]}), _json(LABEL), _json({"labels": [LABEL, LABEL]})]
SOUND += [_json({"transaction_id": "t1"}), _json(row(3, tx_id="4111111111111111", country="\u00e9\U0001f600"))]
MORSELS = [b"1" * 5_000, b"-1e400", b"1e-400", b"0" * 30 + b"1", b"9" * 400 + b".5e-390", b"1e9999999999", b"NaN", b"-"]
MORSELS += [b"[" * 2_000, b'{"a":' * 2_000, b"]" * 50, b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80"]
MORSELS += [b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b"\\x", b"\x00", b"\xef\xbb\xbf", b'"', b"\\", b",", b":", b"}"]
MORSELS += [b'"amount":1,', b'"am\\u006funt":1,', b'"tx_id":"t1",', b'"labels":[],', b'"transactions":[],', b"/**/"]
edits = st.tuples(st.integers(0, 400), st.integers(0, 12), st.sampled_from(MORSELS) | st.binary(max_size=4))


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A sound body with pieces cut out and others put in."""
    body = draw(st.sampled_from(SOUND))
    for place, cut, piece in draw(st.lists(edits, min_size=1, max_size=3)):
        at = place % (len(body) + 1)
        body = body[:at] + piece + body[at + cut :]
    return body


# A field whose value is anything, given once or twice; and documents that are something else altogether.
pieces = st.sampled_from(MORSELS) | st.text(max_size=5).map(_json) | st.integers().map(_json) | st.floats().map(_json)
names = st.sampled_from([*row(1), "transaction_id", "is_fraud", "known_at", "transactions", "labels", "", "\u0000"])
fields = st.lists(st.tuples(names, pieces), max_size=10).map(
    lambda pairs: b"{" + b",".join([_json(name) + b":" + value for name, value in pairs]) + b"}"
)
wrapped = st.tuples(st.sampled_from([b"transactions", b"labels"]), st.lists(fields | edited(), max_size=3)).map(
    lambda pair: b'{"%b":[%b]}' % (pair[0], b",".join(pair[1]))
)
bodies = st.one_of(edited(), fields, wrapped, st.binary(max_size=200), pieces)

# Headers: known ones with odd values, unknown ones.
odd = st.binary(max_size=60).map(lambda raw: bytes(b for b in raw if b not in b"\r\n\0"))
values = odd | st.sampled_from([b"", b"application/json", b"application/json; charset=utf-16", b"text/plain", b"*/*"])
values |= st.sampled_from(
    [b"100-continue", b"202-never", b"application/x-ndjson", b"gzip", b"h2c", b"websocket", b"a b"]
)
values |= st.sampled_from(
    [b"x" * 64, b"x" * 65, b"\xff", b"Bearer ", b"Bearer fml_\xe9", b"Basic Og==", b"close", b"trailers"]
)
known = [
    b"Content-Type",
    b"Accept",
    b"Expect",
    b"X-Request-ID",
    b"Connection",
    b"Upgrade",
    b"Host",
    b"Content-Encoding",
]
known += [b"Authorization", b"X-API-Key", b"X-Forwarded-For", b"Forwarded", b"Cookie", b"TE", b"Trailer", b"Origin"]
header_names = st.sampled_from(known) | st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", fullmatch=True)
headers = st.lists(st.tuples(header_names, values).map(b": ".join), max_size=4)


@given(path=st.sampled_from(ROUTES), body=bodies)
@settings(_fuzzed, max_examples=300)
def test_no_body_harms(target: Target, path: str, body: bytes) -> None:
    (reply,) = target.send(target.request(path, body))
    assert reply.status == 200 or reply.status in REFUSED - {400, 405, 408, 415}
    if reply.status != 200:
        problem = json.loads(reply.body)
        assert (problem["status"], problem["request_id"]) == (reply.status, reply.request_id)
        assert b"Traceback" not in reply.body
    target.is_well()


@given(path=st.sampled_from(ROUTES), extra=headers, body=st.sampled_from(SOUND))
@settings(_fuzzed, max_examples=150)
@example(path="/v1/predict", extra=[b"Expect: 100-continue"], body=SOUND[0])
@example(path="/v1/predict", extra=[b"Upgrade: websocket", b"Connection: Upgrade"], body=SOUND[0])
@example(path="/v1/predict", extra=[b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings"], body=SOUND[0])
@example(path="/v1/predict", extra=[b"Content-Encoding: gzip"], body=SOUND[0])
@example(path="/v1/predict", extra=[b"X-Filler: " + b"x" * 200_000], body=SOUND[0])
def test_no_header_harms(target: Target, path: str, extra: list[bytes], body: bytes) -> None:
    (reply,) = target.send(target.request(path, body, *extra))
    assert reply.status in {200, 401} | REFUSED
    if reply.status != 400:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.request_id)
    target.is_well()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_lost_to_an_upgrade_is_told(target: Target, path: str, framing: str) -> None:
    """The parser drops the body of a request for another protocol, and "missing fields" would mislead."""
    upgrade = [b"Connection: Upgrade", b"Upgrade: other/1"]
    if framing == "chunked":
        request = target.request(path, b"2\r\n{}\r\n0\r\n\r\n", *upgrade, b"Transfer-Encoding: chunked", length="")
    else:
        request = target.request(path, SOUND[0], *upgrade)
    (reply,) = target.send(request)
    assert reply.status == 400
    assert "Upgrade" in json.loads(reply.body)["detail"]
    target.is_well()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("length", "extra"),
    [
        ("1", []),
        ("-1", []),
        ("+5", []),
        ("0x10", []),
        ("1e3", []),
        ("\u00b2", []),
        ("9" * 30, []),
        ("10000001", []),
        ("", []),
        ("", [b"Transfer-Encoding: chunked"]),
        ("", [b"Transfer-Encoding: gzip, chunked"]),
        ("", [b"Transfer-Encoding: identity"]),
        ("5", [b"Transfer-Encoding: chunked"]),
        ("5", [b"Content-Length: 6"]),
    ],
    ids=range(14),
)
def test_no_lie_about_the_length_harms(target: Target, path: str, length: str, extra: list[bytes]) -> None:
    replies = target.send(target.request(path, SOUND[0], *extra, length=length))
    assert {reply.status for reply in replies} <= REFUSED
    target.is_well()


@given(cuts=st.lists(st.integers(1, 60), max_size=6), extension=st.sampled_from([b"", b";a=b", b";" + b"x" * 300]))
@settings(_fuzzed, max_examples=40)
def test_chunks_are_put_together(target: Target, cuts: list[int], extension: bytes) -> None:
    body, chunks = _json(target.new_row()), []
    for size in [*cuts, len(body)]:
        piece, body = body[:size], body[size:]
        if piece:
            chunks.append(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece))
    head = target.request("/v1/predict", b"", b"Transfer-Encoding: chunked", b"Expect: 100-continue", length="")
    (reply,) = target.send(head, *chunks, b"0\r\n", b"Trailer: x\r\n\r\n")
    assert reply.status == 200, reply
    _check_good(reply.body)
    target.is_well()


@given(
    path=st.sampled_from(ROUTES),
    share=st.floats(0, 1, exclude_max=True),
    how=st.sampled_from(["close", "reset", "half"]),
)
@settings(_fuzzed, max_examples=60)
def test_half_a_request_decides_nothing(target: Target, path: str, share: float, how: str) -> None:
    sent = target.new_row()
    document = {"transactions": [sent]} if "batch" in path else sent
    request = target.request(path, _json(document))
    with target.connect() as connection:
        connection.sendall(request[: int(len(request) * share)])
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "half":
            connection.shutdown(socket.SHUT_WR)
            assert {reply.status for reply in _read(connection, 1)} <= REFUSED
    target.is_well()
    assert target.service.as_("read").get(f"/v1/decisions/{sent['tx_id']}").status_code == 404


kinds = st.lists(st.sampled_from(["good", "bad", "retry", "label", "explain", "batch", "none", "health"]), max_size=12)


@given(kinds=kinds, joined=st.booleans())
@settings(_fuzzed, max_examples=50)
def test_pipelined_requests_are_answered_in_order(target: Target, kinds: list[str], joined: bool) -> None:
    requests, expected = [], []
    for number, kind in enumerate(kinds):
        path, body, status = {
            "good": ("/v1/predict", target.new_row(), 200),
            "bad": ("/v1/predict", {"tx_id": 1}, 422),
            "retry": ("/v1/predict", row(1), 200),
            "label": ("/v1/labels", LABEL, 200),
            "explain": ("/v1/explain", {"transaction_id": "t1"}, 200),
            "batch": ("/v1/batch-predict", {"transactions": [row(1), 7]}, 200),
            "none": ("/v1/nothing", {}, 404),
            "health": ("/health/live", {}, 405),
        }[kind]
        requests.append(target.request(path, _json(body), b"X-Request-ID: r%d" % number))
        expected.append((f"r{number}", status))
    replies = target.send(*([b"".join(requests)] if joined else requests), replies=len(requests))
    assert [(reply.request_id, reply.status) for reply in replies] == expected
    for kind, reply in zip(kinds, replies, strict=True):
        if kind in ("good", "retry"):
            _check_good(reply.body)
    target.is_well()


@given(raw=st.binary(max_size=300) | st.lists(st.sampled_from(MORSELS), max_size=4).map(b"\r\n".join))
@settings(_fuzzed, max_examples=60)
@example(raw=b"GET / HTTP/9.9\r\n\r\n")
@example(raw=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
@example(raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
def test_what_is_no_http_harms_nobody(target: Target, raw: bytes) -> None:
    with target.connect() as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        assert {reply.status for reply in _read(connection, 1)} <= REFUSED
    target.is_well()
