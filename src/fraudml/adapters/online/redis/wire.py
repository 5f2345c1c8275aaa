"""Commands to one node of Redis, by one of its connections: all of them out, then all answers in."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

from redis import exceptions

from fraudml.adapters.online.redis.failures import DRIVER
from fraudml.adapters.online.redis.lives import ASK, Lives, Told

LEAST_WAIT_S = 0.001  # for an answer that may be here already when another node has used up the time

Pool = Any  # redis.ConnectionPool
_lives = Lives()


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
    begin with the number of its keys. ``tells_life``: the answer shall be a :class:`Told`."""

    key: bytes
    arguments: tuple[Any, ...]
    script: Script | None = None
    tells_life: bool = False

    def words(self, *, in_full: bool) -> tuple[Any, ...]:
        """What is sent; ``in_full``: with the script's text, for a server that has not seen it."""
        if self.script is None:
            return self.arguments
        return ("EVAL", self.script.text, *self.arguments) if in_full else ("EVALSHA", self.script.sha, *self.arguments)


class Sent(NamedTuple):
    """Commands on their way to a node; ``places``: where their answers go; ``asks``: behind a question for its life."""

    pool: Pool
    connection: Any
    commands: Sequence[Command]
    places: Sequence[int]
    asks: bool


def post(pool: Pool, commands: Sequence[Command], places: Sequence[int], *, in_full: bool) -> Sent:
    """Send; the answers have to be received, or the connection dropped."""
    connection = pool.get_connection()
    sent = Sent(
        pool, connection, commands, places, any(each.tells_life for each in commands) and _lives.of(connection) is None
    )
    try:
        words = [command.words(in_full=in_full) for command in commands]
        packed = connection.pack_commands([ASK, *words] if sent.asks else words)
        connection.send_packed_command(packed, check_health=False)
    except BaseException:
        drop(sent)
        raise
    return sent


def receive(sent: Sent, answers: list[Any], deadline: float) -> Exception | None:
    """Put the answers, or what prevented them, into their places; returns how the connection broke, if it did."""
    try:
        broken = _receive(sent, answers, deadline)
    except BaseException:
        drop(sent)
        raise
    life = _lives.of(sent.connection) or b""
    for command, place in zip(sent.commands, sent.places, strict=True):
        if command.tells_life and not isinstance(answers[place], Exception):
            answers[place] = Told(answers[place], life)
    sent.pool.release(sent.connection)
    return broken


def drop(sent: Sent) -> None:
    """Nobody waits for the answers any more."""
    with suppress(Exception):
        sent.connection.disconnect()
    sent.pool.release(sent.connection)


def _receive(sent: Sent, answers: list[Any], deadline: float) -> Exception | None:
    connection, places = sent.connection, sent.places
    for number, place in enumerate([None, *places] if sent.asks else places, -1 if sent.asks else 0):
        try:
            answer = connection.read_response(timeout=max(deadline - time.monotonic(), LEAST_WAIT_S))
        except exceptions.ResponseError as error:
            answer = error
        except DRIVER as error:
            connection.disconnect()
            for unanswered in places[max(number, 0) :]:
                answers[unanswered] = error
            return error
        if place is None:
            _lives.note(connection, answer)
        else:
            answers[place] = answer
    return None
