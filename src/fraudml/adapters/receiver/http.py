"""A running service that history is replayed to: ``/v1/predict`` over several connections, ``/v1/labels``.

Transactions of one key go through one connection, one after the other, so they stay in order. A label is answered
before any later transaction is sent, and sent after those before it are answered: its own is among them.
"""

from __future__ import annotations

import http.client
import queue
import threading
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import msgspec

from fraudml.errors import ConfigError, FraudmlError
from fraudml.events.receiver import Item, Told

GIVE_UP_S = 60.0  # a service that takes nothing for so long is gone
TIMEOUT_S = 30.0
RETRY_S = 0.2  # where the service does not say when, and after a connection that broke; doubled each time
MOST_RETRY_S = 5.0
WAITING = 16  # transactions that wait for each connection
LABELS_AT_ONCE = 250
CALL_S = 0.1
_OK = 200
_LAST = None


class HttpReceiver:
    """A :class:`fraudml.events.receiver.Receiver` over HTTP. 429 and 5xx are tried again after ``Retry-After``, until
    the service took nothing for :data:`GIVE_UP_S`; other refusals are told with the status and what was wrong.

    ``url``: such as ``http://host:8000``; raises ``ConfigError`` for what is none.
    """

    def __init__(self, url: str, key: str, connections: int, ending: threading.Event) -> None:
        self._address = _address(url)
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError("the API key has characters that no key has; was it copied whole?")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._ending = ending
        self._closed = threading.Event()
        self._failure: FraudmlError | None = None
        self._free = threading.Condition()
        self._hold_until = 0.0  # for all connections: what the service asks of one holds for the key
        self._labels: list[tuple[Item, Told]] = []
        self._own = _Connection(self._address)  # for labels
        self._queues: list[queue.Queue[tuple[Item, Told] | None]] = [queue.Queue(WAITING) for _ in range(connections)]
        self._threads = [threading.Thread(target=self._work, args=(each,), daemon=True) for each in self._queues]
        for thread in self._threads:
            thread.start()

    def send(self, item: Item, told: Told) -> bool:
        """See the port."""
        if item.is_label:
            self._labels.append((item, told))
            return len(self._labels) < LABELS_AT_ONCE or self._send_labels()
        if self._labels and not self._send_labels():
            return False
        chosen = self._queues[zlib.crc32((item.key or item.transaction_id).encode()) % len(self._queues)]
        while not self._ending.is_set():
            self._check()
            try:
                chosen.put((item, told), timeout=CALL_S)
            except queue.Full:
                continue
            return True
        return False

    def poll(self) -> None:
        """See the port."""
        self._check()
        if self._labels:
            self._send_labels()

    def flush(self, within_s: float | None = None) -> None:
        """See the port."""
        until = None if within_s is None else time.monotonic() + within_s
        if self._labels and until is None:
            self._send_labels()
        self._wait_for_answers(until)
        self._check()

    def close(self) -> None:
        """See the port."""
        self._closed.set()
        for each in self._queues:
            while True:
                try:
                    each.put_nowait(_LAST)
                    break
                except queue.Full:
                    each.get_nowait()
        for thread in self._threads:
            thread.join(CALL_S)
        self._own.close()

    def _send_labels(self) -> bool:
        """Send what has gathered, after the transactions before; False when the replay ends."""
        until = time.monotonic() + GIVE_UP_S
        self._wait_for_answers(None)
        self._check()
        while self._labels and not self._ending.is_set():
            body = b'{"labels":[' + b",".join(item.body for item, _ in self._labels) + b"]}"
            answer = self._ask(self._own, "/v1/labels", body)
            if answer is None:
                break
            self._labels = self._told_of(self._labels, *answer)
            if self._labels:
                self._hold(until, RETRY_S, "it does not record labels")
        self._check()
        return not self._labels

    def _told_of(self, sent: list[tuple[Item, Told]], status: int, text: bytes) -> list[tuple[Item, Told]]:
        """Say what became of labels; those that are to be sent again are returned."""
        if status != _OK:
            for _, told in sent:
                told(_reason(status, text))
            return []
        try:
            outcomes = msgspec.json.decode(text, type=_Outcomes).results
        except (msgspec.DecodeError, msgspec.ValidationError):
            outcomes = []
        if len(outcomes) != len(sent):
            raise FraudmlError(f"{self._place} answers labels otherwise than fraudml does; look at --to")
        again = []
        for (item, told), outcome in zip(sent, outcomes, strict=True):
            problem = outcome.get("error")
            if problem is not None and _passes(problem["status"]):
                again.append((item, told))
            else:
                told(None if problem is None else _reason(problem["status"], msgspec.json.encode(problem)))
        return again

    def _wait_for_answers(self, until: float | None) -> None:
        """Until nothing is under way, or the replay is to end and no time was given for it."""
        while not self._idle():
            if self._failure is not None or (until is None and self._ending.is_set()):
                return
            if until is not None and time.monotonic() >= until:
                return
            with self._free:
                self._free.wait_for(self._idle, CALL_S)

    def _idle(self) -> bool:
        return not any(each.unfinished_tasks for each in self._queues)

    def _work(self, waiting: queue.Queue[tuple[Item, Told] | None]) -> None:
        connection = _Connection(self._address)
        while (found := waiting.get()) is not _LAST and not self._closed.is_set():
            item, told = found
            try:
                answer = self._ask(connection, "/v1/predict", item.body)
            except FraudmlError as error:
                self._failure = self._failure or error
                answer = None
            except Exception as error:  # a thread that ended without a word would be waited for for ever
                why = f"{self._place} cannot be called: {type(error).__name__}"  # its text might hold the key
                self._failure = self._failure or FraudmlError(why)
                answer = None
            if answer is not None:
                status, text = answer
                told(None if status == 200 else _reason(status, text))
            waiting.task_done()
            if answer is None:  # the replay ends here: what comes behind must not be decided before it
                break
            with self._free:
                self._free.notify_all()
        connection.close()

    def _ask(self, connection: _Connection, path: str, body: bytes) -> tuple[int, bytes] | None:
        """The final answer; ``None`` when the replay ends. Raises when the service is gone, or does not let us in."""
        until = time.monotonic() + GIVE_UP_S
        pause_s = RETRY_S
        while not self._closed.is_set() and self._failure is None:
            if (hold_s := self._hold_until - time.monotonic()) > 0:
                if self._ending.is_set():
                    return None
                self._closed.wait(min(hold_s, CALL_S))
                continue
            try:
                status, text, after_s = connection.post(path, body, self._headers)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                said, after_s = f"it cannot be reached ({_short(error)})", 0.0
            else:
                if status in (401, 403):
                    raise ConfigError(
                        f"{self._place} refuses the key ({_detail(text)}); give one with the scopes score and label: "
                        "fraudml keys create replay --scope score --scope label"
                    )
                if not _passes(status):
                    return status, text
                said = f"it answers {status}"
            self._hold(until, after_s or pause_s, said)
            pause_s = min(2 * pause_s, MOST_RETRY_S)
        return None

    def _hold(self, until: float, pause_s: float, said: str) -> None:
        """Ask nothing for a while: what the service says to one connection holds for all, as they have one key."""
        now = time.monotonic()
        if now >= until:
            raise FraudmlError(f"{self._place} takes nothing for {GIVE_UP_S:g} s: {said}; see its log")
        self._hold_until = max(self._hold_until, now + pause_s)

    @property
    def _place(self) -> str:
        return f"the service at {self._address[1]}:{self._address[2]}"

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure


class _Outcomes(msgspec.Struct):
    """What a service answers to labels."""

    results: list[dict[str, Any]]


Address = tuple[bool, str, int]  # whether by TLS, host, port


def _address(url: str) -> Address:
    """
    >>> _address("http://127.0.0.1:8000"), _address("https://fraud.example.com/")
    ((False, '127.0.0.1', 8000), (True, 'fraud.example.com', 443))
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.username:
        raise ConfigError("write --to kafka, or the address of a service such as http://127.0.0.1:8000")
    secure = parts.scheme == "https"
    return secure, parts.hostname, port or (443 if secure else 80)


def _passes(status: int) -> bool:
    """Whether a refusal is one of the moment: too many requests, or something behind the service is gone."""
    return status in (408, 429) or status >= 500


class _Connection:
    """One connection that stays open, for one thread at a time."""

    def __init__(self, address: Address) -> None:
        secure, host, port = address
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=TIMEOUT_S)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float]:
        """Status, body, and the seconds after which to ask again."""
        kept = self._connection.sock is not None
        try:
            return self._once(path, body, headers)
        except (ConnectionError, http.client.BadStatusLine):
            self._connection.close()
            if not kept:
                raise
            return self._once(path, body, headers)  # it was idle for long, and the service has closed it

    def _once(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float]:
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        after = answer.headers.get("Retry-After", "")
        return answer.status, answer.read(), float(after) if after.isdecimal() else 0.0

    def close(self) -> None:
        """The next request opens it again."""
        self._connection.close()


def _reason(status: int, text: bytes) -> str:
    """What is wrong, the same for all that are wrong in the same way: ids and values are not in it.

    >>> _reason(422, b'{"title": "Unprocessable", "errors": [{"path": "labels[3].amount", "expected": "a number"}]}')
    '422 amount: a number'
    >>> _reason(409, b'{"title": "Conflict", "detail": "t7 was seen before"}')
    '409 Conflict'
    """
    problem = _decoded(text)
    wrong = [f"{each['path'].rpartition('].')[2]}: {each['expected']}" for each in problem.get("errors", ())]
    return f"{status} {'; '.join(wrong[:3]) or problem.get('title') or http.client.responses.get(status, '')}".strip()


def _detail(text: bytes) -> str:
    return str(_decoded(text).get("detail") or "no reason given")


def _decoded(text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _short(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
