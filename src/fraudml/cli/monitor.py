"""``fraudml monitor``: what takes more than counting, as metrics."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from fraudml import wiring
from fraudml.cli import output
from fraudml.cli.options import ProjectFile, read_project
from fraudml.errors import FraudmlError
from fraudml.events.units import parse_duration
from fraudml.settings import Settings


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("monitor")(monitor)


def monitor(
    port: Annotated[
        int | None, typer.Option(help="Port of health and metrics; 0 lets the system choose; default: 9101.")
    ] = None,
    every: Annotated[str | None, typer.Option(help="How often to look, such as 5min; default: 300 seconds.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, print the metrics and stop.")] = False,
    project_file: ProjectFile = None,
) -> None:
    """Tell Prometheus of drift, of performance under late labels, and of what ends or stands still.

    Reads the decision log; one process of an installation does this, apart from those that score. Ends on SIGTERM.
    """
    declared, current = read_project(project_file)
    every_s = current.monitor_every_s if every is None else parse_duration(every) / 1e6
    from fraudml.monitoring import installation, jobs
    from fraudml.monitoring.monitor import Monitor
    from fraudml.scoring import logs
    from fraudml.scoring.status import Facts, StatusServer

    logs.configure(current.log_level)
    log = wiring.decision_log(current, declared.schema)
    watched = Monitor(
        {
            "drift": jobs.drift(log, declared.feature_set, ahead_us=int(current.max_ahead_s * 1e6)),
            "performance": jobs.performance(log, declared.schema, declared.costs),
            **installation.jobs(
                log.keys.all, certificates(current), current.backup_marker, lambda: wiring.replicas(current)
            ),
        }
    )
    try:
        if once:
            if not watched.look():
                raise FraudmlError("not everything could be found; see the log above")
            typer.echo(watched.text().decode(), nl=False)
            return
        ending = _ending()
        facts = Facts(lambda: False, watched.looked.is_set, watched.text)
        status = StatusServer(current.host, current.monitor_port if port is None else port, facts, "--port")
        try:
            output.results.print(f"Metrics: {status.address}/metrics")
            watched.run(every_s, ending)
        finally:
            status.close()
    finally:
        log.close()


def certificates(current: Settings) -> list[Path]:
    """The files of certificates to watch."""
    named = [Path(name.strip()) for name in (current.certificates or "").split(",") if name.strip()]
    kafka = (current.kafka_ssl_ca_location, current.kafka_ssl_certificate_location)
    return [*named, *(path for path in kafka if path is not None)]


def _ending() -> threading.Event:
    ending = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return ending
