"""The home directory and the project file: there, writable, private, and with room."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fraudml.operations.doctor.findings import Finding, Status

LITTLE = 2 * 2**30  # bytes free below which it is time to make room
NONE_LEFT = 100 * 2**20
JOURNAL_HEADER = 64  # bytes: a journal of no more holds no decisions


def judge_home(home: Path, *, own_hash_key: bool) -> Iterator[Finding]:
    """``own_hash_key``: whether the key for card numbers is kept there."""
    check = "home"
    if not home.exists():
        parent = next(parent for parent in home.absolute().parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding(check, Status.note, f"{home} is not there yet", "the first command makes it")
        else:
            yield Finding(check, Status.failure, f"{home} is not there and cannot be made", "set FRAUDML_HOME")
        yield from _room(check, parent)
        return
    if not home.is_dir():
        yield Finding(check, Status.failure, f"{home} is no directory", "set FRAUDML_HOME to one")
        return
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"fraudml doctor")
            file.flush()
    except OSError as error:
        text = f"{home} cannot be written to: {error.strerror}"
        yield Finding(check, Status.failure, text, "give it to the user that runs fraudml, or set FRAUDML_HOME")
    else:
        yield Finding(check, Status.ok, f"{home} can be written to")
    if home.stat().st_mode & stat.S_IWOTH:
        yield Finding(check, Status.warning, f"everybody may write to {home}", f"chmod o-w {home}")
    if own_hash_key:
        yield from _key(check, home / "hash.key")
    yield from _journals(check, home / "journal")
    yield from _room(check, home)


def judge_project(path: Path, problem: str | None) -> Iterator[Finding]:
    """``problem``: why the file cannot be used."""
    if problem is None:
        yield Finding("project", Status.ok, f"{path} declares schema and features")
    elif path.exists():
        yield Finding("project", Status.failure, problem, f"correct {path}")
    else:
        yield Finding("project", Status.note, f"there is no {path} here", "only backends were looked at; --project")


def _key(check: str, path: Path) -> Iterator[Finding]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    if stat.S_IMODE(found.st_mode) & 0o077:
        text = f"others may read {path}: with it card numbers can be told from their tokens"
        yield Finding(check, Status.warning, text, f"chmod 600 {path}")
    elif not os.access(path, os.R_OK):
        yield Finding(check, Status.failure, f"{path} cannot be read", "give it to the user that runs fraudml")
    else:
        yield Finding(check, Status.ok, f"{path} is readable by its owner only")


def _journals(check: str, folder: Path) -> Iterator[Finding]:
    waiting = [path for path in folder.glob("*.journal") if path.stat().st_size > JOURNAL_HEADER]
    if waiting:
        text = f"decisions wait in {len(waiting)} journal(s): the log, or features in Redis, may lack them"
        do = "a service that runs puts them there as soon as it can, else the next start does; do not remove them"
        yield Finding(check, Status.warning, text, do)


def _room(check: str, place: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:,.1f} GiB of disk are free"
    if free < NONE_LEFT:
        yield Finding(check, Status.failure, text, "make room: neither log nor journal can grow")
    elif free < LITTLE:
        yield Finding(check, Status.warning, text, "make room before log and journal need it")
    else:
        yield Finding(check, Status.ok, text)
