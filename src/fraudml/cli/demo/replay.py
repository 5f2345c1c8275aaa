"""The live stretch: transactions through HTTP in event-time order, labels as they become known."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from fraudml.cli import output
from fraudml.cli.demo.client import Client
from fraudml.cli.demo.workspace import LiveEvent
from fraudml.decisions.record import Action

CONNECTIONS = 4
LABELS_PER_REQUEST = 500


@dataclass
class Answers:
    """What the service said: one entry per transaction, in the order of the stretch.

    ``latency_s`` is measured by the client, from before the request is written until the answer is read.
    """

    scores: list[float] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    late: int = 0
    degraded: int = 0
    labels_recorded: int = 0
    labels_failed: int = 0
    seconds: float = 0.0

    def percentiles_ms(self) -> dict[str, float]:
        """Latency p50, p95 and p99 in milliseconds."""
        found = np.percentile(np.array(self.latency_s), [50, 95, 99]) * 1_000
        return dict(zip(("p50", "p95", "p99"), (float(value) for value in found), strict=True))


def replay(client: Client, stretch: Sequence[LiveEvent], *, quiet: bool) -> Answers:
    """Send the whole stretch and its labels; raises FraudmlError at the first request that is not answered well.

    Before a transaction is sent, every label that was known by its time has been: so no decision knows more, or
    less, than it could have on the day.
    """
    answers = Answers()
    started = time.perf_counter()
    with _progress(quiet) as progress, ThreadPoolExecutor(CONNECTIONS) as connections:
        task = progress.add_task("Replay through HTTP", total=len(stretch), running="")
        frauds = stopped = 0
        for transactions, labels in timeline(stretch):
            done = connections.map(lambda event: _predict(client, event), transactions)
            for event, (answer, seconds) in zip(transactions, done, strict=True):
                _keep(answers, answer, seconds)
                frauds += event.is_fraud
                stopped += event.is_fraud and answers.actions[-1] is not Action.approve
            answers.seconds = time.perf_counter() - started
            for first in range(0, len(labels), LABELS_PER_REQUEST):
                _report(client, labels[first : first + LABELS_PER_REQUEST], answers)
            progress.update(task, completed=len(answers.scores), running=_running(answers, frauds, stopped))
    return answers


def timeline(stretch: Sequence[LiveEvent]) -> Iterator[tuple[list[LiveEvent], list[LiveEvent]]]:
    """Transactions, then the labels that become known before the next one; the rest of the labels come last.

    >>> a, b = (LiveEvent(n, t, 0, True, "", known, "", b"") for n, t, known in (("a", 1, 4), ("b", 5, 9)))
    >>> [([e.transaction_id for e in sent], [e.transaction_id for e in known]) for sent, known in timeline([a, b])]
    [(['a'], ['a']), (['b'], ['b'])]
    """
    waiting: list[tuple[int, int]] = []
    sent: list[LiveEvent] = []
    for place, event in enumerate(stretch):
        known = [stretch[due] for due in _due(waiting, event.event_time_us)]
        if known:
            yield sent, known
            sent = []
        sent.append(event)
        heapq.heappush(waiting, (event.known_at_us, place))
    yield sent, [stretch[place] for _, place in sorted(waiting)]


def _due(waiting: list[tuple[int, int]], moment_us: int) -> Iterable[int]:
    while waiting and waiting[0][0] <= moment_us:
        yield heapq.heappop(waiting)[1]


def _predict(client: Client, event: LiveEvent) -> tuple[Any, float]:
    began = time.perf_counter()
    answer = client.post("/v1/predict", event.body)
    return answer, time.perf_counter() - began


def _keep(answers: Answers, answer: Any, seconds: float) -> None:
    answers.scores.append(np.nan if answer["score"] is None else answer["score"])
    answers.actions.append(Action(answer["action"]))
    answers.latency_s.append(seconds)
    answers.late += bool(answer["late"])
    answers.degraded += bool(answer["degraded"])


def _report(client: Client, labels: Sequence[LiveEvent], answers: Answers) -> None:
    reports = [
        {"transaction_id": event.transaction_id, "is_fraud": event.is_fraud, "known_at": event.known_at}
        for event in labels
    ]
    outcome = client.post("/v1/labels", msgspec.json.encode({"labels": reports}))
    answers.labels_recorded += outcome["recorded"]
    answers.labels_failed += outcome["failed"]


def _running(answers: Answers, frauds: int, stopped: int) -> str:
    rate = len(answers.scores) / answers.seconds
    recent = np.percentile(np.array(answers.latency_s[-1_000:]), 95) * 1_000
    return f"{rate:,.0f}/s · p95 {recent:.1f} ms · {stopped} of {frauds} frauds stopped"


def _progress(quiet: bool) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("[cyan]{task.fields[running]}"),
        TimeRemainingColumn(),
        console=output.remarks,
        disable=quiet,
    )
