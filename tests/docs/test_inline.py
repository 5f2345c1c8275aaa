"""Commands that a page names in a sentence exist, with the options that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fraudml.cli.main import app
from tests.docs.blocks import PAGES, page_name

ROOT: Any = typer.main.get_command(app)


def named(page: Path) -> Iterator[str]:
    """Every command of ours between back ticks, also over the end of a line."""
    yield from re.findall(r"`fraudml ([a-z][^`]*)`", " ".join(page.read_text(encoding="utf-8").split()))


def wrong(said: str) -> str | None:
    """What of it does not exist."""
    words = iter(said.split())
    command, option = ROOT, None
    for word in words:
        if word.startswith("-"):
            option = word
            break
        if not hasattr(command, "get_command"):
            continue  # an argument
        command = command.get_command(None, word.partition("|")[0])
        if command is None:
            return word
    known = {"--help", "--version"} | {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    options = [each.partition("=")[0] for each in [option, *words] if each is not None and each.startswith("--")]
    return next((each for each in options if each not in known), None)


@pytest.mark.parametrize("page", [page for page in PAGES if any(named(page))], ids=page_name)
def test_a_command_in_a_sentence_exists(page: Path) -> None:
    assert not [said for said in named(page) if wrong(said)]


@pytest.mark.parametrize("said", ["rollout stop", "report --since 24h", "paint"])
def test_what_does_not_exist_is_seen(said: str) -> None:
    assert wrong(said)
