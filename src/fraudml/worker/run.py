"""Puts a worker together and runs it to its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from fraudml import wiring
from fraudml.errors import StreamError
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.scoring.process import ScoringProcess
from fraudml.worker.loop import Worker
from fraudml.worker.outbox import Outbox
from fraudml.worker.status import Facts, Heart, StatusServer


def run(process: ScoringProcess, tell: Callable[[str], None]) -> None:
    """Decide on what comes until SIGTERM or Ctrl-C; then finish the batch under way and leave the group.

    ``tell`` gets the address of health and metrics, once the worker has joined the group. Closes ``process``.
    """
    settings, heart, ending = process.settings, Heart(), threading.Event()

    def alive() -> None:
        heart.beat()
        if ending.is_set():
            raise StreamError("the worker ends while it waits for Kafka; its batch is read again by another one")

    def stop(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    status = stream = None
    try:
        topics = [settings.topic_transactions, settings.topic_labels]
        stream = wiring.stream(settings, topics, lambda what, places: metrics.rebalanced(what, len(places)), alive)
        metrics = StreamMetrics(process.metrics.collector)
        outbox = Outbox(process.schema, settings.topic_decisions, settings.topic_alerts)
        worker = Worker(process, stream, outbox, metrics, ending, heart.beat)
        facts = Facts(heart, lambda: worker.working, process.metrics.text)
        status = StatusServer(settings.host, settings.worker_port, facts)
        process.start()
        tell(status.address)
        worker.run()
    except StreamError:
        if not ending.is_set():
            raise
    finally:
        for each in (stream, status, process):
            if each is not None:
                each.close()
