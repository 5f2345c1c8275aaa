"""Natural batching: what arrives while a batch is being decided forms the next one.

Requests wait on the event loop; one thread decides, another commits, so that a batch is decided while the one before is
committed. There is no timer: an idle service decides on a single transaction at once, a busy one on many together.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from fraudml.decisions.record import Decision
from fraudml.decisions.recorder import PROBE_S
from fraudml.decisions.scorer import Decided, Scorer
from fraudml.errors import ConflictError, DeadlineExceeded, Overloaded, StoreError
from fraudml.events.transaction import Transaction
from fraudml.service.waiting import Waiting, resolve

MOST_TOGETHER = 256  # transactions in a batch: beyond, batches get slower but not cheaper
LEND_S = 0.05  # a disk that hangs holds up a batch, and the event loop no longer than this
CLOSE_S = 30.0  # a thread that a dead disk holds does not keep the process from ending
SWEEP_S = 0.1  # how exactly the deadline is kept
LATE = "no decision in time; retry the same request: it gets the decision that was made, if any"

P = ParamSpec("P")
R = TypeVar("R")
Outcome = Decision | ConflictError

logger = logging.getLogger(__name__)


class Pipeline:
    """Used from one event loop, the one that runs when it is first used.

    ``deadline_s``: how long a request may wait for its answer; ``on_shed`` is told why one was turned away
    (queue_full, deadline); ``on_batch`` the outcomes of each batch, and the seconds of each stage of its first request.
    ``overlap``: decide on a batch while the one before is committed. It pays where a commit waits for a disk or a
    network; where it only computes, handing batches from thread to thread costs more than it saves.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        most_waiting: int,
        most_together: int = MOST_TOGETHER,
        deadline_s: float,
        on_shed: Callable[[str], None] = lambda reason: None,
        on_batch: Callable[[Sequence[Outcome], Mapping[str, float]], None] = lambda outcomes, stages: None,
        overlap: bool = True,
    ) -> None:
        self._scorer = scorer
        self._most_waiting = most_waiting
        self._most_together = most_together
        self._deadline_s = deadline_s
        self._on_shed = on_shed
        self._on_batch = on_batch
        self._overlap = overlap
        self._waiting: deque[Waiting[Any]] = deque()
        self._unanswered: deque[Waiting[Any]] = deque()  # in order of arrival, to keep the deadline
        self._sweeping = False
        self._closing = False
        self._called = False  # the event loop is about to lend itself
        self._working = False  # the thread that decides has a batch
        self._lent = False  # and the event loop waits for it
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._back: SimpleQueue[None] = SimpleQueue()
        self._answers: deque[tuple[list[Waiting[Any]], Sequence[Any] | Exception]] = deque()
        self._decided: SimpleQueue[tuple[list[Waiting[Any]], Decided] | None] = SimpleQueue()
        self._committing = threading.Semaphore(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    async def score(self, transactions: Sequence[Transaction], decode_s: float = 0.0) -> Waiting[list[Outcome]]:
        """Decide on transactions (at most a batch's worth at once): the request, whose ``answer`` has the outcomes, or
        raises ``DeadlineExceeded`` or what the scorer raised. Raises ``Overloaded``. ``decode_s``: the seconds it took
        to read them."""
        return await self._ask(transactions, None, decode_s)

    @property
    def alive(self) -> bool:
        """Whether the threads work; before the first request there are none to fail."""
        return all(thread.is_alive() for thread in self._threads)

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What another call of the scorer returns or raises, in its turn; raises like :meth:`score`, too."""
        request: Waiting[R] = await self._ask((), lambda: call(*args, **kwargs))
        return request.answer()

    def close(self) -> None:
        """Finish what waits, then stop the threads. Not from the event loop's own thread while requests wait."""
        self._closing = True
        self._wake.put(None)
        for thread in self._threads:
            thread.join(CLOSE_S)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._threads = [
                threading.Thread(target=self._decide_all, name="decide", daemon=True),
                threading.Thread(target=self._commit_all, name="commit", daemon=True),
            ]
            for thread in self._threads:
                thread.start()
        return self._loop

    @property
    def waiting(self) -> int:
        """How many requests wait to be decided."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether the next request will be turned away."""
        return len(self._waiting) >= self._most_waiting

    def submit(self, request: Waiting[Any]) -> None:
        """Put a request in the queue; raises ``Overloaded``. It hears of its answer by itself."""
        if self.full:
            self._on_shed("queue_full")
            raise Overloaded("too many requests are waiting; retry the same request")
        loop = self._running()
        self._waiting.append(request)
        self._unanswered.append(request)
        self._call(loop)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_S, self._sweep)

    async def _ask(
        self, transactions: Sequence[Transaction], call: Callable[[], Any] | None, decode_s: float = 0.0
    ) -> Waiting[Any]:
        future: asyncio.Future[None] = self._running().create_future()

        def answered(request: Waiting[Any]) -> None:
            if not future.done():
                future.set_result(None)

        request: Waiting[Any] = Waiting(transactions, answered, call=call, decode_s=decode_s)
        self.submit(request)
        try:
            await future
        except asyncio.CancelledError:
            request.done = True
            raise
        return request

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._working and not self._called:
            self._called = True
            # after the next look at the sockets: what has arrived by then comes along
            loop.call_soon(loop.call_soon, self._lend, loop)

    def _lend(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let the other thread decide on a batch, and wait for it, for a while.

        The two share one interpreter lock. Did the event loop go on reading meanwhile, each would stop the other at
        every turn (docs/concepts/hot-path.md has the figures).
        """
        self._called = False
        if self._working or not self._waiting:
            return
        while not self._back.empty():  # of a time when we did not wait long enough
            self._back.get_nowait()
        self._working = self._lent = True
        self._wake.put(None)
        with suppress(Empty):
            self._back.get(timeout=LEND_S)
        self._lent = False
        self._deliver(loop)

    def _deliver(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer what was decided, and ask for the next batch."""
        while self._answers:
            resolve(*self._answers.popleft())
        if self._waiting:
            self._call(loop)

    def _sweep(self) -> None:
        """Answer those whose time is over; what is under way goes on."""
        unanswered = self._unanswered
        limit = time.perf_counter() - self._deadline_s
        while unanswered and (unanswered[0].done or unanswered[0].since < limit):
            request = unanswered.popleft()
            if not request.done:
                self._on_shed("deadline")
                resolve([request], DeadlineExceeded(LATE))
        self._sweeping = bool(unanswered)
        if unanswered and self._loop is not None:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _decide_all(self) -> None:
        """The thread that decides: a batch whenever it is woken."""
        while self._waiting or not self._closing:
            if not self._closing:
                self._wake.get()
            try:
                self._decide_next()
            except Exception:  # a thread that ends would leave everyone waiting
                logger.exception("deciding failed")
            self._working = False
            if self._lent:
                self._back.put(None)
            else:
                self._tell_loop()
        self._committing.acquire()
        self._decided.put(None)

    def _decide_next(self) -> None:
        requests, transactions = self._next()
        if not requests:
            return
        if requests[0].call is not None:
            self._run(requests[0])
            return
        try:
            decided = self._scorer.decide(transactions)
        except Exception as error:  # a defect fails its requests, not the service
            self._answers.append((requests, error))
            return
        if self._overlap:
            self._back.put(None)  # the event loop does not wait for the commit before
            self._committing.acquire()
            self._decided.put((requests, decided))
        else:
            self._commit(requests, decided)

    def _next(self) -> tuple[list[Waiting[Any]], list[Transaction]]:
        """The next batch: requests whose time is not over, or one other call."""
        requests: list[Waiting[Any]] = []
        transactions: list[Transaction] = []
        now = time.perf_counter()
        while self._waiting:
            request = self._waiting[0]
            if transactions and (
                request.call is not None or len(transactions) + len(request.transactions) > self._most_together
            ):
                break
            self._waiting.popleft()
            if request.done or request.since < now - self._deadline_s:
                continue  # the sweep answers it
            request.queue_s = now - request.since
            requests.append(request)
            transactions += request.transactions
            if request.call is not None:
                break
        return requests, transactions

    def _run(self, request: Waiting[Any]) -> None:
        if request.call is None:
            return
        try:
            self._answers.append(([request], [request.call()]))
        except Exception as error:  # as above
            self._answers.append(([request], error))

    def _commit_all(self) -> None:
        """The thread that commits."""
        while True:
            try:
                item = self._decided.get(timeout=PROBE_S)
            except Empty:
                self._recover()
                continue
            if item is None:
                break
            try:
                self._commit(*item)
            except Exception:  # as above
                logger.exception("committing failed")
            finally:
                self._committing.release()
            self._tell_loop()
        self._recover()

    def _commit(self, requests: list[Waiting[Any]], decided: Decided) -> None:
        try:
            outcomes = self._scorer.commit(decided)
        except Exception as error:  # a defect fails its requests, not the service
            self._answers.append((requests, error))
            return
        split = []
        place = 0
        for request in requests:
            request.of_batch = decided.stages
            split.append(outcomes[place : place + len(request.transactions)])
            place += len(request.transactions)
        self._answers.append((requests, split))
        self._on_batch(outcomes, requests[0].stages)

    def _recover(self) -> None:
        """While something is wrong, commit nothing from time to time: that asks whether it still is."""
        try:
            if self._scorer.recorder.unsettled:
                self._scorer.recorder.commit([])
        except StoreError as error:
            logger.debug("still unavailable: %s", error)
        except Exception:  # as above
            logger.exception("recovering failed")

    def _tell_loop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, self._loop)
