"""What pages contain beside commands: YAML and JSON that can be read, links that lead somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlglot
import yaml

from fraudml import project
from tests.docs.blocks import DOCS, PAGES, ROOT, Block, anchors, blocks, links, page_name

ALL = (*PAGES, ROOT / "CONTRIBUTING.md")
# What fragments are put into: a project with the names that the pages use.
BASE = """
schema:
  event_time: {column: time}
  entities: {customer: customer_id, merchant: merchant_id, terminal: terminal_id}
  amount: {column: amount}
  attributes:
    ip_country: {type: category, vocabulary: [DE, FR]}
  label: {column: is_fraud}
features:
  - {name: amount, kind: attribute, of: amount}
"""
SCHEMA_FIELDS = {"event_time", "transaction_id", "entities", "amount", "attributes", "label", "ignore"}


def whole(fragment: Any, base: dict[str, Any]) -> dict[str, Any]:
    """A project made of a fragment: a whole one, some features, a part of the schema, or the costs."""
    if isinstance(fragment, list):
        fragment = {"features": fragment}
    if {"schema", "features"} <= fragment.keys():
        return dict(fragment)
    made = dict(base)
    if fragment.keys() <= SCHEMA_FIELDS:
        made["schema"] = base["schema"] | fragment
        return made
    made["features"] = base["features"] + fragment.get("features", [])
    return made | {name: value for name, value in fragment.items() if name != "features"}


@pytest.mark.parametrize("page", [page for page in ALL if blocks(page, "yaml")], ids=page_name)
def test_yaml_is_a_project_or_a_part_of_one(page: Path) -> None:
    base = yaml.safe_load(BASE)
    for block in blocks(page, "yaml"):
        made = whole(yaml.safe_load(block.text), base)
        project.parse(yaml.safe_dump(made), str(block))
        if made["schema"] == base["schema"]:
            base["features"] = made["features"]  # a later block may build on these


@pytest.mark.parametrize("block", [block for page in ALL for block in blocks(page, "json")], ids=str)
def test_json_is_json(block: Block) -> None:
    assert isinstance(json.loads(block.text), dict)


@pytest.mark.parametrize("block", [block for page in ALL for block in blocks(page, "sql")], ids=str)
def test_sql_is_sql(block: Block) -> None:
    assert all(sqlglot.parse(block.text, dialect="postgres"))


@pytest.mark.parametrize("page", [page for page in ALL if links(page)], ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_leads_to_every_page() -> None:
    indexes = [DOCS / "index.md", DOCS / "runbooks" / "index.md"]
    reached = {(index.parent / link).resolve() for index in indexes for link in links(index)}
    assert not [page_name(page) for page in sorted(DOCS.rglob("*.md")) if page not in {*reached, indexes[0]}]


@pytest.mark.parametrize("page", ALL, ids=page_name)
def test_fences_have_a_language_that_tests_know(page: Path) -> None:
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("```")]
    assert set(fences) <= {"```", "```console", "```bash", "```yaml", "```json", "```sql", "```text"}
    assert fences.count("```") * 2 == len(fences)


@pytest.mark.parametrize("page", ALL, ids=page_name)
def test_lines_fit_an_editor(page: Path) -> None:
    """Tables and links may be longer: they cannot be broken."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [i for i, line in enumerate(lines, 1) if len(line) > 130 and not line.startswith(("|", "- {", "{"))]
