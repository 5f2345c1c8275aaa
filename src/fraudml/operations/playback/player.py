"""Plays events to a receiver, each when it is due, and keeps account of all of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from fraudml.errors import FraudmlError
from fraudml.events.label import Label
from fraudml.events.receiver import Receiver, Told
from fraudml.events.source import Progress
from fraudml.operations.playback.pace import Pace
from fraudml.operations.playback.timeline import Event, ItemWriter

LEAST_WAIT_S = 0.001  # a shorter one costs more than it is
LOOK_S = 0.25  # how often a long wait looks after what is under way
TELL_S = 0.1
STOP_S = 5.0  # given to what is under way when the replay is ended


class Played(NamedTuple):
    """What a replay came to. ``transactions`` and ``labels``: that were taken; ``refused``: by reason, ``examples``:
    the first transaction of each; ``not_yet``: labels that will only be known later. ``ended``: before the end, and
    ``resume_us``: from where to go on then; everything before was taken or refused."""

    transactions: int
    labels: int
    refused: dict[str, int]
    examples: dict[str, str]
    not_yet: int
    seconds: float
    ended: bool
    resume_us: int | None
    failure: FraudmlError | None

    @property
    def rate(self) -> float:
        """Transactions a second."""
        return self.transactions / self.seconds if self.seconds else 0.0


class Account:
    """What became of each event; told from any thread."""

    def __init__(self) -> None:
        self.taken = {False: 0, True: 0}  # by whether it is a label
        self.refused: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._under_way: dict[int, int] = {}  # number -> time, in order of time
        self._number = 0
        self._lock = threading.Lock()

    def open(self, time_us: int, transaction_id: str, is_label: bool) -> Told:
        """An event is handed over; what is returned says what came of it."""
        with self._lock:
            self._number += 1
            number = self._number
            self._under_way[number] = time_us

        def told(why: str | None) -> None:
            with self._lock:
                if self._under_way.pop(number, None) is None:
                    return
                if why is None:
                    self.taken[is_label] += 1
                else:
                    self.refused[why] += 1
                    self.examples.setdefault(why, transaction_id)

        return told

    def earliest_us(self) -> int | None:
        """The time of the first event that nothing is known of yet."""
        with self._lock:
            return next(iter(self._under_way.values()), None)


class Player:
    """Plays once. ``ending``: set to end it; ``clock`` and ``wait`` (which returns whether to end) are for tests."""

    def __init__(
        self,
        receiver: Receiver,
        writer: ItemWriter,
        pace: Pace,
        ending: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._receiver = receiver
        self._writer = writer
        self._pace = pace
        self._ending = ending
        self._clock = clock
        self._wait = wait or ending.wait
        self._now_us = now_us
        self._account = Account()
        self._tell: Callable[[], None] = lambda: None

    def play(self, events: Iterable[Event], total: int, progress: Progress | None = None) -> Played:
        """Send everything; a receiver that fails is an end before the end, with the ``failure``."""
        started, told = self._clock(), -TELL_S
        not_yet = done = 0
        next_us: int | None = None  # of the event that is not handed over yet
        failure: FraudmlError | None = None

        def tell() -> None:
            nonlocal told
            if progress is not None and self._clock() >= told + TELL_S:
                told = self._clock()
                progress(done, max(total, done))

        self._tell = tell
        try:
            for event in events:
                is_label = isinstance(event, Label)
                item = self._writer.item(event)
                next_us = item.time_us
                sent = self._until_due(self._pace.delay_s(item.time_us, counts=not is_label))
                if sent and isinstance(event, Label) and self._writer.known_us(event) > self._now_us():
                    not_yet += 1  # nobody knows it yet: a receiver would refuse it
                    next_us = None
                    continue
                sent = sent and self._receiver.send(
                    item, self._account.open(item.time_us, item.transaction_id, is_label)
                )
                if not sent:
                    break
                next_us = None
                done += not is_label
                tell()
            self._receiver.flush(None if next_us is None else STOP_S)
        except FraudmlError as error:
            failure = error
        finally:
            self._receiver.close()
        left = (self._account.earliest_us(), next_us)
        resume_us = min((each for each in left if each is not None), default=None)
        seconds = self._clock() - started
        if progress is not None:
            progress(done, done if resume_us is not None else max(total, done))
        return Played(
            transactions=self._account.taken[False],
            labels=self._account.taken[True],
            refused=dict(self._account.refused.most_common()),
            examples=self._account.examples,
            not_yet=not_yet,
            seconds=seconds,
            ended=failure is not None or resume_us is not None,
            resume_us=resume_us,
            failure=failure,
        )

    def _until_due(self, delay_s: float) -> bool:
        """Wait; False when the replay is to end."""
        if self._ending.is_set():
            return False
        if delay_s < LEAST_WAIT_S:
            return True
        until = self._clock() + delay_s
        while (left_s := until - self._clock()) >= LEAST_WAIT_S:
            self._receiver.poll()
            self._tell()
            if self._wait(min(left_s, LOOK_S)):
                return False
        return True
