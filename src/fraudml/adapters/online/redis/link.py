"""Commands to Redis and their answers: all of a batch at once, within a deadline, alone or a cluster."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

from redis import exceptions
from redis.crc import key_slot

from fraudml.adapters.online.redis.failures import DRIVER, failure

ATTEMPTS = 4  # of what a broken connection, a moved slot or a forgotten script prevented
BACKOFF_S = 0.01  # before another attempt, doubled each time and with jitter
REFRESH_S = 1.0  # at most so often a cluster is asked who has which slots because a node does not answer

Client = Any  # redis.Redis or redis.cluster.RedisCluster
Pool = Any  # redis.ConnectionPool
# Broken connections; a timeout is not among them, for another attempt would take as long again.
_BROKEN = (exceptions.ConnectionError, OSError)
_MOVED = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)


@dataclass(frozen=True)
class Script:
    """A Lua script and the name by which the server knows it once it has seen it."""

    text: bytes
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """The script in a file of this package."""
        text = files("fraudml.adapters.online.redis").joinpath(name).read_bytes()
        return cls(text, sha1(text, usedforsecurity=False).hexdigest())


class Command(NamedTuple):
    """One command; ``key`` is one of its keys: it says which node of a cluster has to get it. A script's arguments
    begin with the number of its keys."""

    key: bytes
    arguments: tuple[Any, ...]
    script: Script | None = None

    def words(self, *, in_full: bool) -> tuple[Any, ...]:
        """What is sent; ``in_full``: with the script's text, for a server that has not seen it."""
        if self.script is None:
            return self.arguments
        return ("EVAL", self.script.text, *self.arguments) if in_full else ("EVALSHA", self.script.sha, *self.arguments)


class Link:
    """Sends commands and collects their answers; safe for threads. ``connect`` makes the client, on first use."""

    def __init__(self, connect: Callable[[], Client], timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._refreshed = 0.0

    def exchange(self, commands: Sequence[Command], timeout_s: float | None = None) -> list[Any]:
        """The answers, in order; an error that the server answered to a command is raised (OnlineStoreError).

        Commands that a broken connection, a server without our script or a cluster that moved slots prevented are
        sent again: they may then be carried out twice.
        """
        answers = self.answers(commands, timeout_s)
        for answer in answers:
            if isinstance(answer, Exception):
                raise failure(answer)
        return answers

    def answers(self, commands: Sequence[Command], timeout_s: float | None = None) -> list[Any]:
        """The same with errors of single commands among the answers; only those of the connection are raised."""
        deadline = time.monotonic() + (timeout_s or self._timeout_s)
        answers: list[Any] = [None] * len(commands)
        pending = list(range(len(commands)))
        in_full, attempt = False, 0
        try:
            while pending:
                self._send(commands, pending, answers, deadline, in_full=in_full)
                pending = [i for i in pending if _again(answers[i])]
                attempt += 1
                if not pending or attempt == ATTEMPTS:
                    break
                errors = [answers[i] for i in pending]
                in_full = in_full or any(isinstance(error, exceptions.NoScriptError) for error in errors)
                others = [error for error in errors if not isinstance(error, exceptions.NoScriptError)]
                if others and not self._recover(others[0], deadline, attempt):
                    break
            for answer in answers:
                if isinstance(answer, _BROKEN):
                    raise answer
        except DRIVER as error:
            raise failure(error) from error
        return answers

    def primaries(self, keys: Sequence[bytes]) -> dict[Any, list[bytes]]:
        """Keys by the node that has them; one node is all there is without a cluster."""
        found: dict[Any, list[bytes]] = {}
        with _failures():
            for key in keys:
                found.setdefault(self._pool(key), []).append(key)
        return found

    def each_node(self) -> list[Client]:
        """A client of each node that takes writes."""
        with _failures():
            client = self.client()
            if not hasattr(client, "get_primaries"):
                return [client]
            return [client.get_redis_connection(node) for node in client.get_primaries()]

    def client(self) -> Client:
        """The client, made on first use."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def node_of(self, key: bytes) -> Any:
        """What tells the node that has a key from others."""
        with _failures():
            return self._pool(key)

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie on several nodes."""
        with _failures():
            return hasattr(self.client(), "nodes_manager")

    def _pool(self, key: bytes) -> Pool:
        client = self.client()
        if not hasattr(client, "nodes_manager"):
            return client.connection_pool
        node = client.nodes_manager.get_node_from_slot(key_slot(key))
        return client.get_redis_connection(node).connection_pool

    def _send(
        self, commands: Sequence[Command], pending: list[int], answers: list[Any], deadline: float, *, in_full: bool
    ) -> None:
        """One attempt: to all nodes, then from all. Failures are among the answers."""
        groups: dict[Pool, list[int]] = {}
        for i in pending:
            if isinstance(answers[i], exceptions.AskError):
                answers[i] = self._ask(commands[i], answers[i], deadline)
            else:
                groups.setdefault(self._pool(commands[i].key), []).append(i)
        waiting: list[tuple[Pool, Any, list[int]]] = []
        for pool, places in groups.items():
            try:
                connection = pool.get_connection()
            except DRIVER as error:
                _put(answers, places, error)
                continue
            try:
                words = [commands[i].words(in_full=in_full) for i in places]
                connection.send_packed_command(connection.pack_commands(words), check_health=False)
            except BaseException as error:
                self._drop(pool, connection)
                if not isinstance(error, DRIVER):
                    raise
                _put(answers, places, error)
                continue
            waiting.append((pool, connection, places))
        while waiting:
            pool, connection, places = waiting.pop(0)
            try:
                self._receive(connection, places, answers, deadline)
            except BaseException:
                for other, unread, _ in [(pool, connection, places), *waiting]:
                    self._drop(other, unread)
                raise
            pool.release(connection)

    def _receive(self, connection: Any, places: list[int], answers: list[Any], deadline: float) -> None:
        for number, i in enumerate(places):
            try:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise exceptions.TimeoutError
                answers[i] = connection.read_response(timeout=left)
            except exceptions.ResponseError as error:
                answers[i] = error
            except DRIVER as error:
                connection.disconnect()
                _put(answers, places[number:], error)
                return

    def _ask(self, command: Command, error: Any, deadline: float) -> Any:
        """From the node that a slot moves to just now."""
        client = self.client()
        node = client.get_node(error.host, error.port)
        if node is None:
            client.nodes_manager.initialize()
            node = client.get_node(error.host, error.port)
        connection = client.get_redis_connection(node).connection_pool.get_connection()
        pool = client.get_redis_connection(node).connection_pool
        try:
            connection.send_packed_command(connection.pack_commands([("ASKING",), command.words(in_full=True)]))
            answers: list[Any] = [None, None]
            self._receive(connection, [0, 1], answers, deadline)
        except BaseException:
            self._drop(pool, connection)
            raise
        pool.release(connection)
        return answers[1]

    def _recover(self, error: Exception, deadline: float, attempt: int) -> bool:
        """Wait a little and learn anew which node has what; whether another attempt can be made."""
        manager = getattr(self._client, "nodes_manager", None)
        if manager is None and isinstance(error, _MOVED):
            return False
        wait = BACKOFF_S * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311
        if time.monotonic() + wait >= deadline:
            return False
        if not isinstance(error, exceptions.MovedError):
            time.sleep(wait)
        if manager is not None and not isinstance(error, exceptions.AskError | exceptions.TryAgainError):
            now = time.monotonic()
            if isinstance(error, exceptions.MovedError) or now - self._refreshed > REFRESH_S:
                self._refreshed = now
                manager.initialize()
        return True

    def _drop(self, pool: Pool, connection: Any) -> None:
        with suppress(Exception):
            connection.disconnect()
        pool.release(connection)


@contextmanager
def _failures() -> Iterator[None]:
    """Turns the driver's errors into ours."""
    try:
        yield
    except DRIVER as error:
        raise failure(error) from error


def _put(answers: list[Any], places: list[int], error: Exception) -> None:
    for i in places:
        answers[i] = error


def _again(answer: Any) -> bool:
    """Whether another attempt may help."""
    if isinstance(answer, exceptions.TimeoutError | TimeoutError):
        raise answer
    if isinstance(answer, exceptions.AuthenticationError | exceptions.AuthenticationWrongNumberOfArgsError):
        return False
    return isinstance(answer, (*_BROKEN, *_MOVED, exceptions.NoScriptError))
