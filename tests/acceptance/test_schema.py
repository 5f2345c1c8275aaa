"""``fraudml schema`` as people and pipelines use it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import prepared
from tests.support.commands import fraudml, refused, well

PROJECT = """
schema:
  event_time: {column: time}
  entities: {customer: customer_id}
  amount: {column: amount, currency: EUR}
  attributes:
    country: {type: category, vocabulary: [DE, FR]}
    items: {type: integer}
  label: {column: is_fraud}
features:
  - {name: amount, kind: attribute, of: amount}
"""
MESSAGES = ["transaction", "label", "decision", "alert"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "fraudml.yaml").write_text(PROJECT, encoding="utf-8")
    return tmp_path


def test_people_see_the_fields_and_the_version_of_each_message(directory: Path) -> None:
    said = well("schema", "show", cwd=directory).out
    printed = well("schema", "show", "--json", cwd=directory).json
    assert list(printed) == MESSAGES
    for name, described in printed.items():
        assert described["$id"].startswith(f"urn:fraudml:{name}/")
        assert described["$id"].removeprefix("urn:fraudml:") in said
    assert "amount, decimals 2, currency EUR" in said
    one = well("schema", "show", "transaction", "--json", cwd=directory).json
    assert one == printed["transaction"]
    assert "is_fraud" in well("schema", "show", "label", cwd=directory).out


def test_the_same_project_is_as_it_was_in_every_form(directory: Path) -> None:
    saved = directory / "saved.json"
    saved.write_text(well("schema", "show", "--json", cwd=directory).out, encoding="utf-8")
    for old in ("fraudml.yaml", "saved.json"):
        done = well("schema", "diff", old, "--json", cwd=directory).json
        assert done["compatible"]
        assert done["changes"] == []
        assert list(done["versions"]) == MESSAGES
        assert all(each["old"] == each["new"] for each in done["versions"].values())
    saved.write_text(json.dumps(json.loads(saved.read_text(encoding="utf-8"))["label"]), encoding="utf-8")
    assert list(well("schema", "diff", "saved.json", "--json", cwd=directory).json["versions"]) == ["label"]


def test_a_compatible_change_ends_well(directory: Path) -> None:
    (directory / "new.yaml").write_text(PROJECT.replace("FR]", "FR, IT]"), encoding="utf-8")
    done = well("schema", "diff", "fraudml.yaml", "new.yaml", cwd=directory)
    assert "vocabulary adds IT" in done.out
    assert "breaking" not in done.out


def test_a_breaking_change_comes_first_and_ends_with_1(directory: Path) -> None:
    changed = PROJECT.replace("EUR", "USD").replace("FR]", "FR, IT]").replace("    items: {type: integer}\n", "")
    (directory / "new.yaml").write_text(changed, encoding="utf-8")
    done = fraudml("schema", "diff", "fraudml.yaml", "new.yaml", "--json", cwd=directory)
    assert done.code == 1
    assert not done.json["compatible"]
    found = [(change["message"], change["field"], change["compatible"]) for change in done.json["changes"]]
    assert found == [
        ("transaction", "amount", False),
        ("transaction", "items", False),
        ("alert", "transaction.amount", False),
        ("transaction", "country", True),
        ("alert", "transaction.items", True),
    ]
    said = fraudml("schema", "diff", "fraudml.yaml", "new.yaml", cwd=directory)
    assert said.code == 1
    assert said.out.index("breaking") < said.out.index("compatible")
    assert "list it under schema.ignore" in said.out


def test_an_old_project_comes_from_a_pipe(directory: Path) -> None:
    done = subprocess.run(
        [*prepared.command(), "schema", "diff", "-", "--json"],
        cwd=directory,
        input=PROJECT.replace("EUR", "USD"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["changes"][0]["what"] == "currency USD -> EUR"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"transaction": {"title": "transaction"}}', "not as `fraudml schema show --json` printed it"),
        ('{"$id": "urn:fraudml:transaction/1", "title": "transaction"}', "not as `fraudml schema show --json`"),
        ("[1]", "Expected `object`"),
        ("[" * 10_000, "nested too deep"),
        ("schema: {}", "event_time"),
        ("\x00\x01", "not valid YAML"),
    ],
)
def test_what_is_neither_a_project_nor_a_schema_is_named(content: str, expected: str, directory: Path) -> None:
    (directory / "other").write_text(content, encoding="utf-8")
    said = refused("schema", "diff", "other", cwd=directory)
    assert expected in said
    assert "other" in said


def test_a_schema_that_somebody_edited_is_refused(directory: Path) -> None:
    printed = well("schema", "show", "transaction", "--json", cwd=directory).out
    (directory / "edited.json").write_text(printed.replace('"EUR"', '"USD"'), encoding="utf-8")
    assert "print it again" in refused("schema", "diff", "edited.json", cwd=directory)


def test_two_schemas_of_different_messages_cannot_be_compared(directory: Path) -> None:
    for name in ("label", "alert"):
        (directory / name).write_text(well("schema", "show", name, "--json", cwd=directory).out, encoding="utf-8")
    assert "no message in common" in refused("schema", "diff", "label", "alert", cwd=directory)
