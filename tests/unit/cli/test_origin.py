"""Where a model comes from is written down, without secrets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fraudml.cli import origin


def test_passwords_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://me:hunter2@db/risk?table=tx"
    monkeypatch.setattr("sys.argv", ["/usr/bin/fraudml", "train", url, "--family", "xgboost"])
    assert origin.command_line() == "fraudml train 'postgresql://me@db/risk?table=tx' --family xgboost"


def test_the_revision_of_a_repository_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert origin.code_revision(tmp_path) == ""

    def git(*arguments: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *named, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    assert origin.code_revision(tmp_path) == "", "nothing is committed yet"
    (tmp_path / "fraudml.yaml").write_text("schema: {}")
    git("add", ".")
    git("commit", "-m", "first")
    revision = git("rev-parse", "HEAD")
    assert origin.code_revision(tmp_path) == revision
    (tmp_path / "fraudml.yaml").write_text("schema: {} # changed")
    assert origin.code_revision(tmp_path) == revision + "+"


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert origin.code_revision(tmp_path) == ""


def test_somebody_runs_it() -> None:
    name, at, host = origin.operator().partition("@")
    assert name
    assert at
    assert host
