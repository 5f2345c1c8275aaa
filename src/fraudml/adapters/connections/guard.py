"""A client of a server that decisions can do without: after a failure it is left alone for a while."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from fraudml.decisions.circuit import LEAST_S, MOST_S, Circuit
from fraudml.errors import StoreError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Guard:
    """Calls a server through its client; a server that is gone or hangs costs one deadline, not one for every call.

    See :class:`Circuit`. Safe for use by several threads, which should share one guard of a server.

    ``connect`` makes the client, when it is first needed: it may fail. ``gone``: the errors of a server that cannot be
    reached; ``refused``: those of one that answers, which do not keep others from asking. ``server`` is its name for
    people.
    """

    def __init__(
        self,
        server: str,
        connect: Callable[[], Any],
        gone: tuple[type[Exception], ...],
        refused: tuple[type[Exception], ...] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._connect = connect
        self._gone, self._refused = gone, refused
        self._circuit = Circuit(LEAST_S, MOST_S, clock=clock, chance=chance)
        self._connecting = threading.Lock()
        self._client: Any = None

    @property
    def up(self) -> bool:
        """Whether the last call found the server there."""
        return self._circuit.up

    def __call__(self, call: Callable[[Any], T]) -> T:
        """What ``call`` returns for the client; ``StoreError`` when the server fails, or is left alone now."""
        self._enter()
        try:
            result = call(self._made())
        except self._gone as error:
            self._failed(_text(error))
            raise StoreError(f"{self._server} does not answer: {_text(error)}") from error
        except self._refused as error:
            self._works()
            raise StoreError(f"{self._server} refused: {_text(error)}") from error
        except BaseException as error:  # a defect, or the end of the process
            self._failed(type(error).__name__)
            raise
        self._works()
        return result

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _made(self) -> Any:
        with self._connecting:  # others would make clients of their own
            if self._client is None:
                self._client = self._connect()
        return self._client

    def _enter(self) -> None:
        if not self._circuit.enter():
            why = self._circuit.why
            raise StoreError(f"{self._server} is not asked for a moment, as it does not answer: {why}")

    def _works(self) -> None:
        if self._circuit.works():
            logger.info("%s works again", self._server)

    def _failed(self, why: str) -> None:
        if self._circuit.failed(why):
            logger.warning("%s does not answer: %s", self._server, why)


def _text(error: Exception) -> str:
    """What a driver says, without the command and its values, which some put before it.

    >>> _text(OSError("Command # 1 (SET key value) of pipeline caused error: The cluster is down"))
    'The cluster is down'
    """
    return str(error).rpartition("caused error: ")[2]
