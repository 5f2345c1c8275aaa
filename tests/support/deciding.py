"""A decision log as a service would have filled it with the transactions of a file, without running one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from fraudml import project as projects
from fraudml import wiring
from fraudml.decisions.record import Action, Decision, LabelReport
from fraudml.events.label import Label
from fraudml.events.transaction import Transaction
from fraudml.settings import Settings
from tests.support.scoring import SECOND, decision

Row = dict[str, Any]


def decide(
    directory: Path,
    file: str,
    *,
    score: Callable[[int], float] = lambda number: 0.1,
    declined: Callable[[Row], bool] = lambda row: False,
    reported: Callable[[Row], bool] = lambda row: bool(row["is_fraud"]),
) -> int:
    """Put each transaction of a file into a project's decision log, decided by version 1 one a second from now on, and
    a report of each that ``reported`` names, as the file has it. ``score``: by the number of the decision. Returns how
    many there are."""
    settings = Settings(_env_file=None, home=directory / ".fraudml")
    schema = projects.read(directory / "fraudml.yaml").schema
    source = wiring.source(settings, schema, [str(directory / file)], directory / "rejects.csv")
    rows = sorted(source.read().read_all().to_pylist(), key=lambda row: row["event_time_us"])
    now_us = time.time_ns() // 1_000

    def made(number: int, row: Row) -> Decision:
        entities = tuple(row[name] for name in schema.entity_names)
        attributes = tuple(row[name] for name in schema.attribute_names)
        event = Transaction(row["transaction_id"], row["event_time_us"], entities, row["amount_minor"], attributes)
        action = Action.decline if declined(row) else Action.approve
        return decision(event, now_us + number * SECOND, score=score(number), action=action)

    reports = [
        LabelReport(Label(row["transaction_id"], row["is_fraud"], row["known_at_us"]), now_us + number * SECOND + 1)
        for number, row in enumerate(rows)
        if reported(row)
    ]
    with closing(wiring.decision_log(settings, schema)) as log:
        log.claim()
        for first in range(0, len(rows), 1_000):
            log.append([made(number, row) for number, row in enumerate(rows[first : first + 1_000], first)])
        log.append_labels(reports)
    return len(rows)


def halve(directory: Path, file: str, earlier: str, later: str) -> None:
    """Cut a CSV file, whose rows are in order of time, into two."""
    header, *rows = (directory / file).read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(rows) // 2
    (directory / earlier).write_text("".join([header, *rows[:cut]]), encoding="utf-8")
    (directory / later).write_text("".join([header, *rows[cut:]]), encoding="utf-8")
