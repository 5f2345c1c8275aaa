"""Who and what runs a command: kept with what it makes, so that it can be told later."""

from __future__ import annotations

import getpass
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from fraudml.events import address

GIT_WITHIN_S = 5.0


def operator() -> str:
    """Who runs this command."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


def command_line() -> str:
    """What was typed, without passwords in URLs."""
    return shlex.join(["fraudml", *map(address.public, sys.argv[1:])])


def code_revision(directory: Path) -> str:
    """The revision of the git repository that a directory is in, with ``+`` behind it where files were changed since;
    empty without one, or without git."""
    try:
        revision = _git(directory, "rev-parse", "HEAD")
        return revision + ("+" if _git(directory, "status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", "-C", str(directory), *arguments],  # noqa: S607 - the user's own git
        capture_output=True,
        text=True,
        timeout=GIT_WITHIN_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()
