"""Transactions to decisions.

A decision is in the log before it is published, and says which message it answers (``Decision.source``). So whatever
happens between, the message is read again and its decision found: one that answers this very message was not published
yet, because publishing moves the group past it; one that answers another message was, or will be, and is not again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from fraudml.decisions.codec import Codec
from fraudml.decisions.record import Decision
from fraudml.decisions.stream import Message
from fraudml.errors import RowError
from fraudml.events.transaction import Transaction
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.process import ScoringProcess
from fraudml.worker.loop import Handled
from fraudml.worker.outbox import Outbox


class Transactions:
    """Handles messages of transactions; call it with some, and :meth:`published` when that is so, in any thread."""

    def __init__(self, process: ScoringProcess, codec: Codec, outbox: Outbox, metrics: StreamMetrics) -> None:
        self._process = process
        self._codec = codec
        self._outbox = outbox
        self._metrics = metrics

    def __call__(self, messages: Sequence[Message]) -> Handled:
        """Decide; the decisions are in the log afterwards. Raises ``DecisionLogError`` when they cannot be."""
        handled = Handled()
        events: list[Transaction] = []
        good: list[Message] = []
        decode = self._codec.decode_transaction
        for message in messages:
            try:
                events.append(decode(message.value))
                good.append(message)
            except RowError as error:
                handled.dead.append((message, str(error)))
        if not events:
            return handled
        sources = [message.source for message in good]
        for message, source, outcome in zip(
            good, sources, self._process.scorer.try_score(events, sources), strict=True
        ):
            if not isinstance(outcome, Decision):
                handled.dead.append((message, str(outcome)))
            elif outcome.source is not None and outcome.source != source:
                handled.count("repeated")
            else:
                handled.outgoing += self._outbox.messages(message, outcome)
                handled.count("decided")
                handled.decided.append((message, outcome))
        return handled

    def published(self, handled: Handled) -> None:
        """Measure."""
        if not handled.decided:
            return
        now_us = time.time_ns() // 1_000
        delays = [max(0.0, (now_us - message.time_us) / 1e6) for message, _ in handled.decided]
        newest = handled.decided[-1][1].transaction.event_time_us
        self._metrics.published(delays, max(0.0, (now_us - newest) / 1e6))
        self._process.metrics.batch([decision for _, decision in handled.decided], {})
