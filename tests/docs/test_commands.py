"""Every command that a page shows is run as it is written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PAGES, blocks, commands, page_name, words
from tests.docs.terminal import DATABASE, KAFKA, LAKE, REDIS, SMALL, WAREHOUSE, Terminal

TUTORIAL = DOCS / "tutorial" / "first-model.md"
OWN_TEST = (
    DOCS / "howto" / "use-spark.md"
)  # tests/docs/test_spark.py: it needs a Java, and a project with fewer features
WITH_COMMANDS = [page for page in PAGES if blocks(page, "console", "bash") and page != OWN_TEST]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader of a how-to guide has: transactions, also by month, a project, a model that was used once."""
    directory = tmp_path_factory.mktemp("trained") / "project"
    directory.mkdir()
    terminal = Terminal(directory)
    terminal.run(f"fraudml simulate transactions.csv {SMALL['simulate']}")
    terminal.run("fraudml init transactions.csv --yes")
    terminal.run(f"fraudml train {SMALL['train']}")
    terminal.close()
    header, *rows = (directory / "transactions.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    for month, some in (("february", rows[:2_000]), ("march", rows[2_000:3_000])):
        (directory / f"{month}.csv").write_text("".join([header, *some]), encoding="utf-8")
    return directory


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal in an empty directory for the tutorial, in a copy of the trained project for all other pages; with
    the servers that the page names."""
    directory = tmp_path / "project"
    page = request.getfixturevalue("page")
    if page == TUTORIAL:
        directory.mkdir()
    else:
        shutil.copytree(request.getfixturevalue("trained"), directory)
    shown = "".join(command for block in blocks(page, "console", "bash") for command in commands(block))
    fixtures = {DATABASE: "postgres_url", REDIS: "redis_url", KAFKA: "fresh_kafka", WAREHOUSE: "snowflake_url"}
    servers = {name: request.getfixturevalue(fixture) for name, fixture in fixtures.items() if name in shown}
    made = Terminal(directory, servers | {LAKE: str(tmp_path / "lake")})
    yield made
    made.close()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=page_name)
def test_the_commands_of_a_page_work(page: Path, terminal: Terminal) -> None:
    for block in blocks(page, "console", "bash"):
        for command in commands(block):
            # the trained project is what this very command made
            if words(command) == ["fraudml", "train"] and page != TUTORIAL:
                continue
            if "features audit" in command and "fraudml serve" not in terminal.ran:
                terminal.type("fraudml serve")  # an audit needs decisions
            terminal.type(command)


def test_the_pages_show_every_kind_of_command() -> None:
    """A page that loses its fences would be a page that is not tested."""
    shown = {
        " ".join(words(command)[:2])
        for page in WITH_COMMANDS
        for block in blocks(page, "console")
        for command in commands(block)
    }
    expected = ("simulate", "init", "train", "score", "serve", "features", "models", "keys", "bench")
    assert {f"fraudml {name}" for name in expected} <= shown
    assert "curl -s" in shown
