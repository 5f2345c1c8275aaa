"""``fraudml replay``: history once more, to Kafka or to a running service."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import (
    AsJson,
    ProjectFile,
    Query,
    moment_us,
    read_project,
    rejects_path,
    source_paths,
    tell_rejects,
)
from fraudml.errors import ConfigError, NotFoundError
from fraudml.events.units import parse_rate, parse_speed

if TYPE_CHECKING:
    from fraudml.events.receiver import Receiver
    from fraudml.operations.playback.player import Played
    from fraudml.settings import Settings

KAFKA = "kafka"
REFUSED, INTERRUPTED = 1, 130  # exit codes
SHOWN = 10


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("replay")(replay)


def replay(
    files: Annotated[
        list[str] | None, typer.Argument(help="Transactions: files, or URLs; default: the project's source.")
    ] = None,
    query: Query = None,
    to: Annotated[str, typer.Option(help="kafka, or a service such as http://127.0.0.1:8000.")] = KAFKA,
    rate: Annotated[str | None, typer.Option(help="Transactions a second, at most: 500/s, 30/min.")] = None,
    speed: Annotated[
        str | None, typer.Option(help="Keep the gaps between events, so many times shorter: 60x, 1x.")
    ] = None,
    labels: Annotated[bool, typer.Option(help="Send each label at the time it became known.")] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="End with this number of transactions.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only events from this time on, or for this long: 2026-01-31T00:00Z, 24h.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only events before this time, or so long ago.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Move all times to today, none of them ahead of the clock.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(help="API key with the scopes score and label, for a service; default: FRAUDML_API_KEY."),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=256, help="Connections to a service.")] = 8,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Send history once more, in order of time and at the pace you choose: to Kafka, or to a running service.

    Exit code 1 when something was refused. Ended with Ctrl-C it says how to go on.
    """
    from fraudml.operations.playback import pace, player, timeline

    declared, current = read_project(project_file)
    times = parse_speed(speed) if speed else None
    per_s = parse_rate(rate) if rate else None
    stretch = timeline.Stretch(moment_us(since) if since else None, moment_us(until) if until else None, limit)
    ending = threading.Event()
    receiver = _receiver(current, to, api_key, connections, labels, ending)
    schema = declared.schema
    with closing(wiring.local_store(current)) as store, output.steps(quiet=as_json) as steps:
        source = wiring.source(current, schema, source_paths(files, declared, query), rejects_path(current, "replay"))
        with steps.step("Read and check transactions") as progress:
            store.put(source.read(progress))
        extent = timeline.extent(timeline.in_order(store, schema, stretch.until_us), stretch)
        shift_us = extent.shift_us(time.time_ns() // 1_000, times, per_s) if now else 0
        writer = timeline.ItemWriter(schema, shift_us)
        events = timeline.timeline(timeline.in_order(store, schema, stretch.until_us), schema, stretch, labels=labels)
        with (
            closing(events),
            _ended_by_ctrl_c(ending),
            steps.step(f"Replay to {to}", "transactions", extent.transactions) as progress,
        ):
            playing = player.Player(receiver, writer, pace.Pace(times, per_s), ending)
            played = playing.play(events, extent.transactions, progress)
    go_on = None if played.resume_us is None else f"--since {_iso(played.resume_us)}"
    if as_json:
        output.result(_document(played, source.rejects().count, to, go_on))
    else:
        tell_rejects(source.rejects())
        _show(played, to, go_on)
    if played.failure is not None:
        again = f"; what is missing: the same command with {go_on}" if go_on else ""
        raise type(played.failure)(f"{played.failure}{again}")
    if played.ended:
        raise typer.Exit(INTERRUPTED)
    if played.refused:
        raise typer.Exit(REFUSED)


def _receiver(
    current: Settings, to: str, api_key: str | None, connections: int, labels: bool, ending: threading.Event
) -> Receiver:
    """Where to send; what cannot work fails here, before anything is read."""
    if to != KAFKA:
        key = api_key or (current.api_key.get_secret_value() if current.api_key is not None else None)
        if key is None:
            scopes = "--scope score --scope label" if labels else "--scope score"
            raise ConfigError(f"a service needs an API key: fraudml keys create replay {scopes}, then FRAUDML_API_KEY")
        return wiring.http_receiver(to, key, connections, ending)
    there = wiring.administration(current).cluster().topics
    wanted = [current.topic_transactions, *([current.topic_labels] if labels else [])]
    if missing := [topic for topic in wanted if topic not in there]:
        raise NotFoundError(f"Kafka has no topic {' and no topic '.join(missing)}; make it with: fraudml stream init")
    return wiring.kafka_receiver(current, ending)


@contextmanager
def _ended_by_ctrl_c(ending: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the replay in order; a second one ends the command."""

    def end(number: int, frame: object) -> None:
        ending.set()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(played: Played, to: str, go_on: str | None) -> None:
    labels = f" and {played.labels:,} labels" if played.labels else ""
    output.remarks.print(
        f"{played.transactions:,} transactions{labels} to {to} in {played.seconds:.1f} s ({played.rate:,.0f}/s)",
        markup=False,
    )
    if played.not_yet:
        output.remarks.print(f"{played.not_yet:,} labels become known later than now: not sent")
    for reason, count in list(played.refused.items())[:SHOWN]:
        told = f"refused: {count:,} x {reason} (the first: {played.examples[reason]})"
        output.remarks.print(told, style="yellow", markup=False, soft_wrap=True)
    if go_on is not None and played.failure is None:
        output.remarks.print(f"Ended before the end; go on with the same command and {go_on}", markup=False)


def _document(played: Played, rejected: int, to: str, go_on: str | None) -> dict[str, Any]:
    return {
        "to": to,
        "sent": played.transactions,
        "labels": played.labels,
        "labels_not_yet_known": played.not_yet,
        "refused": [
            {"reason": reason, "count": count, "first": played.examples[reason]}
            for reason, count in played.refused.items()
        ],
        "rejected": rejected,
        "seconds": round(played.seconds, 3),
        "rate": round(played.rate, 1),
        "go_on": go_on,
        "failure": None if played.failure is None else str(played.failure),
    }


def _iso(moment_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment_us)).isoformat().replace("+00:00", "Z")
