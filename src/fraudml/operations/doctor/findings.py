"""What a check finds, and all checks run side by side, each with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from fraudml.errors import FraudmlError


class Status(StrEnum):
    """How a finding is to be taken; the later, the worse."""

    ok = "ok"
    note = "note"  # worth knowing; nothing to do
    warning = "warning"  # it works, and may not always
    failure = "failure"  # it does not work


class Finding(msgspec.Struct, frozen=True):
    """One line of the result; ``next`` says what to do, where there is something to do."""

    check: str
    status: Status
    text: str
    next: str = ""


# Tells what it finds as it finds it: what came before a hanging call is kept.
Run = Callable[[], Iterable[Finding]]


class Check(NamedTuple):
    """Something to look at."""

    name: str
    run: Run


class Report(msgspec.Struct, frozen=True):
    """All findings, in the order of the checks; ``hanging``: the checks that did not end in time."""

    findings: list[Finding]
    hanging: list[str]
    seconds: float

    @property
    def status(self) -> Status:
        """The worst one."""
        order = list(Status)
        return max((finding.status for finding in self.findings), key=order.index, default=Status.ok)


def examine(checks: Sequence[Check], timeout_s: float) -> Report:
    """Run all checks at once, each for at most ``timeout_s``; one that hangs hides none of the others.

    A check that fails with an error of ours is a finding, and so is a defect of it.
    """
    started = time.monotonic()
    found: list[list[Finding]] = [[] for _ in checks]
    threads = [
        # not an executor's: the interpreter would wait for those that hang
        threading.Thread(target=_run, args=(check, found[place]), name=check.name, daemon=True)
        for place, check in enumerate(checks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, started + timeout_s - time.monotonic()))
    hanging = [check.name for check, thread in zip(checks, threads, strict=True) if thread.is_alive()]
    findings = []
    for check, own in zip(checks, found, strict=True):
        findings += [*own]
        if check.name in hanging:
            text = f"no answer within {timeout_s:g} s"
            findings.append(
                Finding(check.name, Status.failure, text, "look whether it hangs, or the network; --timeout")
            )
    return Report(findings, hanging, time.monotonic() - started)


def _run(check: Check, found: list[Finding]) -> None:
    try:
        for finding in check.run():
            found.append(finding)  # one by one: whoever does not wait any longer has these
    except FraudmlError as error:
        found.append(Finding(check.name, Status.failure, str(error)))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        do = "look at its permissions, and whose it is"
        found.append(Finding(check.name, Status.failure, f"{place}{error.strerror or error}", do))
    except Exception as error:
        text = f"this check has a defect: {type(error).__name__}"  # its text might hold a secret
        found.append(Finding(check.name, Status.failure, text, "please report it"))
