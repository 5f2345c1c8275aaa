"""Commands to Redis and their answers: all of a batch at once, within a deadline, alone or a cluster."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from redis import exceptions
from redis.crc import key_slot

from fraudml.adapters.online.redis import wire
from fraudml.adapters.online.redis.failures import DRIVER, NotAsked, failure, meaning
from fraudml.adapters.online.redis.wire import Command, Pool, Sent
from fraudml.decisions.circuit import Circuit

ATTEMPTS = 4  # of what a broken connection, a moved slot or a forgotten script prevented
BACKOFF_S = 0.01  # before another attempt, doubled each time and with jitter
LEFT_ALONE_S = (0.25, 10.0)  # after a failure; each further one doubles that, up to the second
REFRESH_S = 1.0  # at most so often a cluster is asked who has which slots because a node does not answer

Client = Any  # redis.Redis or redis.cluster.RedisCluster
_Found = dict[Pool | None, Exception | None]  # how asking each node of a call has ended; None: all together
# Broken connections; a timeout is not among them, for another attempt would take as long again.
_BROKEN = (exceptions.ConnectionError, OSError)
_MOVED = (exceptions.MovedError, exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)


class Link:
    """Sends commands and collects their answers; safe for threads. ``connect`` makes the client, on first use.

    A node that does not answer is left alone for a while: what would be sent to it fails at once, see :class:`Circuit`.
    """

    def __init__(self, connect: Callable[[], Client], timeout_s: float) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self._only: Pool | None = None  # the connections to a server that is no cluster
        self._lock = threading.Lock()
        self._refreshed = 0.0
        self._circuits: dict[Pool | None, Circuit] = {}  # of each node, and of all together

    def exchange(
        self, commands: Sequence[Command], timeout_s: float | None = None, *, insist: bool = False
    ) -> list[Any]:
        """The answers, in order; an error that the server answered to a command is raised (OnlineStoreError).

        Commands that a broken connection, a server without our script or a cluster that moved slots prevented are
        sent again: they may then be carried out twice. ``insist``: also where a node would be left alone.
        """
        answers = self.answers(commands, timeout_s, insist=insist)
        for answer in answers:
            if isinstance(answer, Exception):
                raise failure(answer)
        return answers

    def answers(
        self, commands: Sequence[Command], timeout_s: float | None = None, *, insist: bool = False
    ) -> list[Any]:
        """The same with errors of single commands among the answers; only those of the connection are raised."""
        found: _Found = {}
        try:
            self._enter(None, found, insist=insist)
            return self._answers(commands, time.monotonic() + (timeout_s or self._timeout_s), found, insist)
        except DRIVER as error:
            if not isinstance(error, NotAsked) and not any(found.values()):
                found[None] = error
            raise failure(error) from error
        except BaseException as error:  # a defect, or the end of the process: others must not wait for its end
            found |= dict.fromkeys(found, Exception(type(error).__name__))
            raise
        finally:
            for pool, ended in found.items():
                self._leave(pool, ended)

    def _answers(self, commands: Sequence[Command], deadline: float, found: _Found, insist: bool) -> list[Any]:
        answers: list[Any] = [None] * len(commands)
        pending = list(range(len(commands)))
        in_full, attempt = False, 0
        while pending:
            self._send(commands, pending, answers, _Attempt(deadline, in_full, insist, found))
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
        return answers

    def _enter(self, pool: Pool | None, found: _Found, *, insist: bool) -> None:
        """Raise NotAsked for a node that is left alone now, unless it was asked before in this call."""
        if pool in found:
            return
        circuit = self._circuits.get(pool)
        if circuit is not None and not circuit.enter() and not insist:
            raise NotAsked(circuit.why)
        found[pool] = None

    def _leave(self, pool: Pool | None, error: Exception | None) -> None:
        circuit = self._circuits.get(pool)
        if error is not None:
            circuit = self._circuits.setdefault(pool, circuit or Circuit(*LEFT_ALONE_S))
            circuit.failed(meaning(error))
        elif circuit is not None:
            circuit.works()

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
                made = self._connect()
                self._only = None if hasattr(made, "nodes_manager") else made.connection_pool
                self._client = made
            return self._client

    def node_of(self, key: bytes) -> Any:
        """What tells the node that has a key from others."""
        if self._only is not None:
            return self._only
        with _failures():
            return self._pool(key)

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie on several nodes."""
        if self._only is not None:
            return False
        with _failures():
            self.client()
            return self._only is None

    def _pool(self, key: bytes) -> Pool:
        client = self.client() if self._client is None else self._client
        if self._only is not None:
            return self._only
        node = client.nodes_manager.get_node_from_slot(key_slot(key))
        return client.get_redis_connection(node).connection_pool

    def _send(self, commands: Sequence[Command], pending: list[int], answers: list[Any], attempt: _Attempt) -> None:
        """To all nodes, then from all. Failures are among the answers."""
        groups: dict[Pool, list[int]] = {}
        for i in pending:
            if isinstance(answers[i], exceptions.AskError):
                answers[i] = self._ask(commands[i], answers[i], attempt.deadline)
            else:
                groups.setdefault(self._pool(commands[i].key), []).append(i)
        waiting: list[Sent] = []
        for pool, places in groups.items():
            try:
                self._enter(pool, attempt.found, insist=attempt.insist)
                waiting.append(wire.post(pool, [commands[i] for i in places], places, in_full=attempt.in_full))
            except DRIVER as error:
                if not isinstance(error, NotAsked):
                    attempt.found[pool] = error
                _put(answers, places, error)
        while waiting:
            sent = waiting.pop(0)
            try:
                attempt.found[sent.pool] = wire.receive(sent, answers, attempt.deadline)
            except BaseException:
                for other in waiting:
                    wire.drop(other)
                raise

    def _ask(self, command: Command, error: Any, deadline: float) -> Any:
        """From the node that a slot moves to just now."""
        client = self.client()
        node = client.get_node(error.host, error.port)
        if node is None:
            client.nodes_manager.initialize()
            node = client.get_node(error.host, error.port)
        asking = Command(command.key, ("ASKING",))
        answers: list[Any] = [None, None]
        pool = client.get_redis_connection(node).connection_pool
        wire.receive(wire.post(pool, [asking, command], [0, 1], in_full=True), answers, deadline)
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


class _Attempt(NamedTuple):
    """``found``: how asking each node has ended; ``insist``: ask those that are left alone, too."""

    deadline: float
    in_full: bool
    insist: bool
    found: _Found


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
    if isinstance(answer, NotAsked | exceptions.TimeoutError | TimeoutError):
        raise answer
    if isinstance(answer, exceptions.AuthenticationError | exceptions.AuthenticationWrongNumberOfArgsError):
        return False
    return isinstance(answer, (*_BROKEN, *_MOVED, exceptions.NoScriptError))
