"""Label reports into the log and the online store."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from fraudml.decisions.codec import Codec
from fraudml.decisions.scorer import Scorer
from fraudml.decisions.stream import Message
from fraudml.errors import FraudmlError, NotFoundError, RowError
from fraudml.events.label import Label
from fraudml.monitoring.metrics import Metrics
from fraudml.worker.loop import Handled

# Labels and transactions are different topics: for so long a label may be there before its transaction is.
PATIENCE_US = 30_000_000
MOST_PATIENCE_US = 6 * 3_600_000_000  # whatever the times of messages are, which producers set

# When the oldest transaction that waits to be decided, by whatever worker, was published; ``None`` where none waits.
WaitsSince = Callable[[], int | None]


class Labels:
    """Handles messages of labels."""

    def __init__(self, scorer: Scorer, codec: Codec, metrics: Metrics, waits_since: WaitsSince) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._codec = codec
        self._waits_since = waits_since
        self._waiting: dict[str, int] = {}  # messages of labels that wait, and since when they do here

    def __call__(self, messages: Sequence[Message]) -> Handled:
        """Record. A label waits until all is decided that was published before it, or up to 30 s later, and so do those
        behind it in its partition."""
        read: list[tuple[Message, Label | RowError]] = []
        for message in messages:
            try:
                read.append((message, self._codec.decode_label(message.value)))
            except RowError as error:
                read.append((message, error))
        told = iter(self._scorer.add_labels([label for _, label in read if isinstance(label, Label)], again=True))
        handled = Handled()
        waits_since: list[int | None] = []  # asked at most once
        for message, label in read:
            outcome = next(told) if isinstance(label, Label) else label
            place = (message.topic, message.partition)
            if place in handled.early:  # what was recorded is read again as a repeat
                continue
            if isinstance(outcome, NotFoundError) and self._may_come(message, waits_since):
                handled.early[place] = message
                continue
            self._waiting.pop(message.source, None)
            if isinstance(outcome, FraudmlError):
                handled.dead.append((message, str(outcome)))
            else:
                handled.count("recorded" if outcome else "unchanged")
                if outcome and isinstance(label, Label):
                    self._metrics.reported(label.is_fraud)
        return handled

    def _may_come(self, message: Message, known: list[int | None]) -> bool:
        now_us = time.time_ns() // 1_000
        since_us = self._waiting.setdefault(message.source, now_us)
        if now_us > since_us + MOST_PATIENCE_US:
            return False
        until_us = min(message.time_us, since_us) + PATIENCE_US
        if now_us < until_us:
            return True
        if not known:
            known.append(self._waits_since())
        return known[0] is not None and known[0] <= until_us
