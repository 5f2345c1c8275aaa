"""Doing something again and again until the process is asked to end, and going on after failures."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fraudml.cli import output
from fraudml.errors import ConflictError, StoreError

LONGEST_S = 600.0  # between tries, unless the interval itself is longer
ENDING = ("SIGTERM", "SIGINT", "SIGHUP")


class Ending:
    """Whether the process was asked to end; made by :func:`asked_to_end`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()  # to write there is safe at any moment, which to set an event is not
        os.set_blocking(self._write, False)
        self.is_asked = False

    def ask(self, number: int, frame: object) -> None:
        """A handler of signals. A second one ends the process at once, as it would end any other."""
        signal.signal(number, signal.SIG_DFL)
        self.is_asked = True
        os.write(self._write, b".")

    def wait(self, seconds: float) -> None:
        """Return after so long, or as soon as it is asked."""
        select.select([self._read], [], [], seconds)

    def close(self) -> None:
        """Release both ends."""
        os.close(self._read)
        os.close(self._write)


@contextmanager
def asked_to_end() -> Iterator[Ending]:
    """Inside, SIGTERM and its like only ask."""
    ending = Ending()
    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    before = {number: signal.signal(number, ending.ask) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ending.close()


def repeat(do: Callable[[], None], every_s: float, ending: Ending) -> None:
    """Call it, with so long from one beginning to the next. What a backend refuses is said, and tried again after ever
    longer pauses; any other error is raised: it does not go away by itself."""
    failed = 0
    while not ending.is_asked:
        started = time.monotonic()
        try:
            do()
            failed = 0
        except (StoreError, ConflictError) as error:
            pause = min(every_s * 2**failed, max(every_s, LONGEST_S))
            failed += 1
            output.remarks.print(f"fraudml: {error}; trying again in {pause:.0f} s", markup=False, soft_wrap=True)
            ending.wait(pause)
        else:
            ending.wait(max(0.0, started + every_s - time.monotonic()))
