"""A project with a champion, made by commands alone, once for all workers: tests that are about services get copies."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from tests.support import prepared
from tests.support.commands import well


def project(directory: Path) -> Path:
    """Fill an empty directory with the project. Its artifacts stay at the first place: the registry knows them."""
    first = Path(prepared.command()[-1]).with_name("trained")
    with first.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not first.exists():
            draft = first.with_name("project")
            draft.mkdir(exist_ok=True)
            well("simulate", "tx.csv", "--rows", "6000", "--customers", "60", "--fraud-rate", "0.05", cwd=draft)
            well("init", "tx.csv", "--yes", cwd=draft)
            well("train", "--family", "logistic_regression", "--json", cwd=draft)
            first.symlink_to(draft)
    shutil.copytree(first, directory, dirs_exist_ok=True)
    return directory
