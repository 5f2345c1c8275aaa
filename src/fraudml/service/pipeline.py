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
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

from fraudml.decisions.record import Decision
from fraudml.decisions.recorder import PROBE_S
from fraudml.decisions.scorer import Decided, Scorer
from fraudml.errors import ConflictError, DeadlineExceeded, Overloaded, StoreError
from fraudml.events.transaction import Transaction

MOST_TOGETHER = 256  # transactions in a batch: beyond, batches get slower but not cheaper
CLOSE_S = 30.0  # a thread that a dead disk holds does not keep the process from ending
SWEEP_S = 0.1  # how exactly the deadline is kept

P = ParamSpec("P")
R = TypeVar("R")
Outcome = Decision | ConflictError

logger = logging.getLogger(__name__)


class Waiting(Generic[R]):
    """A request: transactions to decide on, or another call for the thread that decides.

    ``stages`` are the seconds it spent in each stage, once it is answered.
    """

    __slots__ = ("call", "future", "since", "stages", "transactions")

    def __init__(
        self, future: asyncio.Future[R], transactions: Sequence[Transaction], call: Callable[[], R] | None = None
    ) -> None:
        self.future = future
        self.transactions = transactions
        self.call = call
        self.since = time.perf_counter()
        self.stages: dict[str, float] = {}


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
        self._waking = False
        self._asleep = False
        self._closing = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._decided: SimpleQueue[tuple[list[Waiting[Any]], Decided] | None] = SimpleQueue()
        self._committing = threading.Semaphore(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    async def score(self, transactions: Sequence[Transaction], decode_s: float = 0.0) -> Waiting[list[Outcome]]:
        """Decide on transactions (at most a batch's worth at once): the answered request, with the outcomes in its
        future. ``decode_s``: the seconds it took to read them. Raises ``Overloaded``, ``DeadlineExceeded``, or what the
        scorer raises."""
        request: Waiting[list[Outcome]] = Waiting(self._running().create_future(), transactions)
        request.stages["decode"] = decode_s
        return await self._ask(request)

    @property
    def alive(self) -> bool:
        """Whether the threads work; before the first request there are none to fail."""
        return all(thread.is_alive() for thread in self._threads)

    async def run(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Another call of the scorer, in its turn; raises like :meth:`score`."""
        request: Waiting[R] = Waiting(self._running().create_future(), (), lambda: call(*args, **kwargs))
        return (await self._ask(request)).future.result()

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

    async def _ask(self, request: Waiting[R]) -> Waiting[R]:
        if len(self._waiting) >= self._most_waiting:
            self._on_shed("queue_full")
            raise Overloaded("too many requests are waiting; retry the same request")
        self._waiting.append(request)
        self._unanswered.append(request)
        loop = self._running()
        if self._asleep and not self._waking:
            # after the other requests that have arrived by now: they come along
            self._waking = True
            loop.call_soon(self._wake_up)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_S, self._sweep)
        # Who stops waiting while the decision is being made does not undo it; what has not begun is not begun.
        await request.future
        return request

    def _wake_up(self) -> None:
        self._waking = False
        self._wake.put(None)

    def _sweep(self) -> None:
        """Answer those whose time is over; what is under way goes on."""
        unanswered = self._unanswered
        limit = time.perf_counter() - self._deadline_s
        while unanswered and (unanswered[0].future.done() or unanswered[0].since < limit):
            request = unanswered.popleft()
            if not request.future.done():
                self._on_shed("deadline")
                request.future.set_exception(
                    DeadlineExceeded(
                        "no decision in time; retry the same request: it gets the decision that was made, if any"
                    )
                )
        self._sweeping = bool(unanswered)
        if unanswered and self._loop is not None:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _decide_all(self) -> None:
        """The thread that decides."""
        while not (self._closing and not self._waiting):
            try:
                self._decide_next()
            except Exception:  # a thread that ends would leave everyone waiting
                logger.exception("deciding failed")
        self._committing.acquire()
        self._decided.put(None)

    def _decide_next(self) -> None:
        """Sleep until there is something to do, or do it."""
        if not self._waiting:
            self._asleep = True
            if not self._waiting and not self._closing:  # if something came in between, it may not have seen us asleep
                self._wake.get()
            self._asleep = False
            return
        requests, transactions = self._next()
        if not requests:
            return
        if requests[0].call is not None:
            self._run(requests[0])
            return
        try:
            decided = self._scorer.decide(transactions)
        except Exception as error:  # a defect fails its requests, not the service
            self._answer(requests, error)
            return
        if self._overlap:
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
            if request.future.done() or request.since < now - self._deadline_s:
                continue  # the sweep answers it
            request.stages["queue"] = now - request.since
            requests.append(request)
            transactions += request.transactions
            if request.call is not None:
                break
        return requests, transactions

    def _run(self, request: Waiting[Any]) -> None:
        if request.call is None:
            return
        try:
            self._answer([request], [request.call()])
        except Exception as error:  # as above
            self._answer([request], error)

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
        self._recover()

    def _commit(self, requests: list[Waiting[Any]], decided: Decided) -> None:
        try:
            outcomes = self._scorer.commit(decided)
        except Exception as error:  # a defect fails its requests, not the service
            self._answer(requests, error)
            return
        split = []
        place = 0
        for request in requests:
            request.stages.update(decided.stages)
            split.append(outcomes[place : place + len(request.transactions)])
            place += len(request.transactions)
        self._answer(requests, split)
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

    def _answer(self, requests: list[Waiting[Any]], results: Sequence[Any] | Exception) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, requests, results)


def _resolve(requests: list[Waiting[Any]], results: Sequence[Any] | Exception) -> None:
    for i, request in enumerate(requests):
        if request.future.done():
            continue
        if isinstance(results, Exception):
            request.future.set_exception(results)
        else:
            request.future.set_result(results[i])
