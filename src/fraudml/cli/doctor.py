"""``fraudml doctor``: whether everything behind the settings is there and well."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from pydantic import SecretStr

from fraudml import project, wiring
from fraudml.cli import output
from fraudml.cli.options import AsJson, ProjectFile
from fraudml.errors import ConfigError
from fraudml.settings import Settings, settings

if TYPE_CHECKING:
    from pathlib import Path

    from fraudml.operations.doctor.findings import Check, Finding, Report
    from fraudml.operations.doctor.tiers import Chosen
    from fraudml.project import Project

WARNED, FAILED = 1, 2  # exit codes
PART = 0.8  # of the time is a driver's own: what it says is better than that time is over
MARKS = {"ok": "ok", "note": "-", "warning": "warning", "failure": "FAILURE"}


def add(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that each check may take; all run at once.")] = 10.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 for warnings, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what is not well, for probes.")] = False,
    project_file: ProjectFile = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything behind the settings: which tier they amount to, whether each backend is there and well.

    Nothing is changed: what has to be tried is undone. Exit code 0: well, maybe with warnings; 1: warnings, with
    --strict; 2: something does not work.
    """
    from fraudml.operations.doctor.findings import Status, examine
    from fraudml.operations.doctor.tiers import tier
    from fraudml.wiring.backends import load

    current = settings()
    load(current)
    report = examine(checks(current, project_file or current.project, timeout * PART), timeout)
    code = FAILED if report.status is Status.failure else WARNED if strict and report.status is Status.warning else 0
    if as_json:
        found = tier(_chosen(current))
        needs = [f"{need.what}: {need.setting}" for need in found.missing]
        output.result(
            {
                "status": report.status,
                "tier": {"number": found.number, "name": found.name, "next_needs": needs},
                "seconds": round(report.seconds, 3),
                "findings": [msgspec.structs.asdict(finding) for finding in report.findings],
                "hanging": report.hanging,
            }
        )
    else:
        _show(report, quiet=quiet, strict=strict)
    _leave(code, report)


def checks(current: Settings, project_path: Path, timeout_s: float) -> list[Check]:
    """All that there is to look at."""
    from fraudml.operations.doctor import places, servers, tiers
    from fraudml.operations.doctor.findings import Check
    from fraudml.wiring import backends

    def log() -> Iterator[Finding]:
        facts = backends.log(current, timeout_s, time.time)
        database = cache(lambda: wiring.database(current))
        yield from servers.judge_log(facts, lambda: database().tables, lambda: database().differs)

    declared = _read(project_path)

    def redis() -> Iterable[Finding]:
        def lost() -> bool | None:
            return None if isinstance(declared, str) else backends.history_missing(current, declared.feature_set)

        return servers.judge_redis(backends.redis(current, timeout_s, time.time), lost)

    def engine(check: str, url: SecretStr | None, setting: str) -> Iterable[Finding]:
        secret = None if url is None else url.get_secret_value()
        return servers.judge(check, backends.engine(secret, setting, timeout_s, time.time))

    def registry() -> Iterable[Finding]:
        return servers.judge_registry(backends.registry(current, timeout_s), current.registry_url is not None)

    def model_server() -> Iterable[Finding]:
        feature_set = None if isinstance(declared, str) else declared.feature_set
        compare = None if feature_set is None else partial(backends.check_model_server, current, feature_set, timeout_s)
        return servers.judge_model_server(backends.model_server(current, timeout_s), compare)

    def kafka() -> Iterable[Finding]:
        return servers.judge_kafka(backends.kafka(current, timeout_s))

    def warehouse() -> Iterable[Finding]:
        url = "" if current.warehouse_url is None else current.warehouse_url.get_secret_value()
        return servers.judge("warehouse", backends.warehouse(url, "FRAUDML_WAREHOUSE_URL", timeout_s, time.time))

    found = [
        Check("settings", lambda: tiers.judge(_chosen(current))),
        Check("project", lambda: places.judge_project(project_path, declared if isinstance(declared, str) else None)),
        Check("home", lambda: places.judge_home(current.home, own_hash_key=current.hash_key is None)),
        Check("decision log", log),
        Check("Redis", redis),
        Check("Kafka", kafka),
        Check("offline engine", lambda: engine("offline engine", current.offline_url, "FRAUDML_OFFLINE_URL")),
        Check("registry", registry),
    ]
    if current.model_server_url is not None:
        found.append(Check("model server", model_server))
    if current.warehouse_url is not None:
        found.append(Check("warehouse", warehouse))
    return found


def _chosen(current: Settings) -> Chosen:
    from fraudml.operations.doctor.tiers import Chosen
    from fraudml.wiring.backends import kind

    def of(url: SecretStr | None) -> str | None:
        return None if url is None else kind(url.get_secret_value())

    redis = "" if current.redis_url is None else current.redis_url.get_secret_value()
    return Chosen(
        log=kind(current.log_url()),
        redis=bool(redis),
        cluster="cluster=true" in redis,
        kafka=current.kafka_bootstrap_servers is not None,
        offline=of(current.offline_url) or "duckdb",
        warehouse=of(current.warehouse_url),
        hash_key=current.hash_key is not None,
    )


def _read(path: Path) -> Project | str:
    """The project, or why it cannot be used."""
    try:
        return project.read(path)
    except ConfigError as error:
        return str(error)


def _show(report: Report, *, quiet: bool, strict: bool) -> None:
    shown = set(MARKS)
    if quiet:
        shown = {"failure", "warning"} if strict else {"failure"}
    found = [finding for finding in report.findings if finding.status in shown]
    if quiet:
        for finding in found:
            line = f"{finding.check}: {finding.text}{'; ' if finding.next else ''}{finding.next}"
            output.remarks.print(line, markup=False, soft_wrap=True)
        return
    rows = []
    checks_before = ["", *(finding.check for finding in found)]
    for before, finding in zip(checks_before, found, strict=False):
        name = "" if finding.check == before else finding.check
        rows.append([name, MARKS[finding.status], finding.text, finding.next])
    output.table(["", "", "found", "what to do"], rows)
    counts = {status: sum(f.status == status for f in report.findings) for status in ("failure", "warning")}
    told = ", ".join(f"{count} {status}{'s' if count > 1 else ''}" for status, count in counts.items() if count)
    output.results.print(f"{told or 'All is well'} ({report.seconds:.1f} s)", markup=False)


def _leave(code: int, report: Report) -> Any:
    if report.hanging:  # what hangs is not waited for, nor any thread that a library keeps
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)
