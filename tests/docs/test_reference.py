"""The reference is complete: what the code has is documented, and what is documented the code has."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from fastapi.routing import APIRoute

from fraudml import errors
from fraudml.cli.main import app
from fraudml.decisions.costs import Costs
from fraudml.decisions.message_schema import MESSAGES, decision_message, messages
from fraudml.decisions.record import Degradation
from fraudml.events.message_schema import MEANING, headers_of, transaction_message
from fraudml.events.schema import (
    AmountColumn,
    Attribute,
    AttributeType,
    LabelColumn,
    Schema,
    TimeColumn,
    TimeFormat,
)
from fraudml.features.expression import FUNCTIONS
from fraudml.features.spec import Aggregation, Feature, LabelAggregation, Transform
from fraudml.monitoring.catalogue import CATALOGUE, LABELS
from fraudml.monitoring.metrics import Metrics
from fraudml.monitoring.monitor import Monitor
from fraudml.monitoring.parity import AuditReport
from fraudml.monitoring.stream_metrics import StreamMetrics
from fraudml.service import batch, decisions, docs, explain, health, labels, predict, profile, v2
from fraudml.service.problems import SLUGS
from tests.docs.blocks import DOCS

REFERENCE = DOCS / "reference"


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next heading of its level or above."""
    level = heading.partition(" ")[0]
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {heading!r}"
    return found[1]


def first_cells(part: str) -> set[str]:
    """What is in backquotes in the first cells of a part's tables."""
    cells = re.findall(r"^\| ([^|]+) \|", part, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group with the words that call it."""
    if hasattr(command, "list_commands"):
        for name in command.list_commands(None):
            yield from commands(command.get_command(None, name), (*path, name))
    else:
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(app)))


def names(command: Any) -> set[str]:
    """The options and arguments of a command as its page names them."""
    found: set[str] = set()
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found |= {*parameter.opts, *parameter.secondary_opts} - {"--help", "-h"}
        else:
            found.add(str(parameter.name).upper())
    return found


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_is_documented_with_every_option(path: tuple[str, ...]) -> None:
    heading = f"{'#' * (1 + len(path))} fraudml {' '.join(path)}"
    assert first_cells(section(text("cli.md"), heading)) == names(COMMANDS[path])


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_documented_defaults_are_those_of_the_command(path: tuple[str, ...]) -> None:
    heading = f"{'#' * (1 + len(path))} fraudml {' '.join(path)}"
    rows = re.findall(r"^\| `([^`]+)`.*\| ([^|]*) ?\|$", section(text("cli.md"), heading), re.MULTILINE)
    expected = {}
    for parameter in COMMANDS[path].params:
        if parameter.name != "help":
            name = parameter.opts[0] if parameter.param_type_name == "option" else str(parameter.name).upper()
            expected[name] = "required" if parameter.required else shown(parameter.default)
    assert {name: default.strip() for name, default in rows} == expected


def shown(default: Any) -> str:
    """A default as a page has it: nothing for none and for a switch that is off."""
    if default is None or default is False:
        return ""
    return f"`{default[0] if isinstance(default, list) else default}`"


def test_no_other_command_is_documented() -> None:
    assert len(COMMANDS) > 10
    titles = re.findall(r"^#+ fraudml (.+)$", text("cli.md"), re.MULTILINE)
    groups = {path[0] for path in COMMANDS if len(path) > 1}
    assert set(titles) == {" ".join(path) for path in COMMANDS} | groups


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("## schema", Schema),
        ("### A time column", TimeColumn),
        ("### amount", AmountColumn),
        ("### attributes", Attribute),
        ("### label", LabelColumn),
        ("## costs", Costs),
    ],
)
def test_every_field_of_the_project_file_is_documented(heading: str, struct: type[msgspec.Struct]) -> None:
    assert set(struct.__struct_fields__) <= first_cells(section(text("project-file.md"), heading))


def test_formats_and_types_of_the_project_file_are_documented() -> None:
    page = text("project-file.md")
    assert set(TimeFormat) <= first_cells(section(page, "### A time column"))
    assert set(AttributeType) <= first_cells(section(page, "### attributes"))


def test_the_documented_costs_are_the_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\d.]+)` \|", section(text("project-file.md"), "## costs"), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == msgspec.structs.asdict(Costs())


@pytest.mark.parametrize("kind", Feature.__args__, ids=lambda kind: str(kind.__struct_config__.tag))
def test_every_field_of_a_feature_is_documented(kind: type[msgspec.Struct]) -> None:
    page = text("features.md")
    common = first_cells(section(page, "## Fields of every kind"))
    own = first_cells(section(page, f"### {kind.__struct_config__.tag}"))
    assert set(kind.__struct_fields__) <= common | own


@pytest.mark.parametrize(
    ("heading", "values"),
    [("### attribute", Transform), ("### window", Aggregation), ("### label_window", LabelAggregation)],
)
def test_every_transform_and_aggregation_is_documented(heading: str, values: type[Transform]) -> None:
    fields = {"of", "transform", "over", "agg", "length", "resolution"}
    assert first_cells(section(text("features.md"), heading)) - fields == {value.value for value in values}


def test_every_function_of_expressions_is_documented_with_its_arguments() -> None:
    cells = first_cells(section(text("features.md"), "## Expressions"))
    calls = (re.fullmatch(r"(\w+)\((.+)\)", cell) for cell in cells)
    found = {call[1]: call[2].count(",") + 1 for call in calls if call}
    assert found == {name: count for name, (count, _) in FUNCTIONS.items()}


def test_every_route_is_documented() -> None:
    routes = [
        route
        for module in (batch, explain, labels, decisions, health, docs, profile, v2)
        for route in module.router.routes
    ]
    paths = {
        f"{method} {route.path.replace(':path', '')}"
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert len(paths) == len(routes)
    paths.add(f"POST {predict.PATH}")  # in front of the routes
    table = text("http-api.md").partition("\n## ")[0]
    assert {cell for cell in first_cells(table) if cell.startswith(("GET ", "POST "))} == paths


@pytest.mark.parametrize("page", ["reference/http-api.md", "concepts/durability-and-idempotency.md"])
def test_every_degradation_is_documented(page: str) -> None:
    said = (DOCS / page).read_text(encoding="utf-8")
    assert {name for name in Degradation if name in re.findall(r"\w+", said)} == set(Degradation)


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(fraud_\w+)` \| (\w+) \|([^|]*)\|", text("metrics.md"), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert documented == {metric.name: (metric.kind, metric.labels) for metric in CATALOGUE.values()}


def test_what_a_process_exposes_is_in_the_catalogue() -> None:
    metrics = Metrics()
    StreamMetrics(metrics.collector)
    said = metrics.text().decode() + Monitor({}).text().decode()
    found = re.findall(r"^# TYPE (fraud_\w+) (\w+)$", said, re.MULTILINE)
    types = {name: kind for name, kind in found if not name.endswith("_created")}  # the library's own
    known = {metric.name: str(metric.kind) for metric in CATALOGUE.values()}
    assert types.items() <= known.items()
    assert {known[name] for name in known.keys() - types.keys()} == {"gauge"}  # those that are told, if they are


def test_every_label_of_a_metric_is_bounded_and_documented() -> None:
    used = {label for metric in CATALOGUE.values() for label in metric.labels}
    assert used == set(LABELS)
    assert first_cells(section(text("metrics.md"), "## Labels")) >= used


def test_the_error_tree_is_the_one_in_the_code() -> None:
    drawn = re.findall(r"^[│├└─\s]*(\w+)(?:\s{2,}.*)?$", section(text("errors.md"), "## The tree"), re.MULTILINE)
    classes = {name for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)}
    assert classes <= set(drawn)
    tree = str(errors.__doc__)
    assert all(name in tree for name in classes)


def test_every_figure_of_an_audit_is_documented() -> None:
    page = (DOCS / "howto" / "audit-parity.md").read_text(encoding="utf-8")
    assert set(AuditReport.__struct_fields__) == first_cells(page)


def test_every_problem_over_http_is_documented() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([\w-]+)` \|", text("errors.md"), re.MULTILINE)
    assert {int(status): slug for status, slug in rows} == SLUGS


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_of_a_message_is_documented(name: str) -> None:
    page = text("messages.md")
    assert f"| `{name}` | `FRAUDML_TOPIC_{name.upper()}S` |" in page
    if name == "transaction":  # its fields are the project's
        return
    described = messages(Schema(TimeColumn("time")))[name]
    assert set(described["properties"]) <= first_cells(section(page, f"## {name}"))


def test_the_header_of_a_message_and_the_version_in_it_are_documented() -> None:
    page = text("messages.md")
    ((header, version),) = headers_of(decision_message())
    assert f"{header}: {version.decode()}" in page
    assert f"the first {len(version.rpartition(b'/')[2])} digits" in " ".join(page.split())


def test_every_fact_about_a_field_of_a_message_is_documented() -> None:
    zoned, counted = ("iso", "Europe/Berlin", None), ("days_from", None, "2024-01-01")
    attributes = {
        f"t{place}": Attribute(AttributeType.time, None, (), TimeFormat(form), zone, start)
        for place, (form, zone, start) in enumerate([zoned, counted])
    }
    listed = Attribute(AttributeType.category, vocabulary=("DE",))
    schema = Schema(TimeColumn("time"), None, {}, AmountColumn("sum", 2, "EUR"), attributes | {"country": listed})
    properties = transaction_message(schema)["properties"]
    facts = {fact for shape in properties.values() for meaning in shape[MEANING].values() for fact in meaning}
    assert facts <= first_cells(section(text("messages.md"), "## Versions"))


def test_every_page_of_the_reference_is_checked_here() -> None:
    """Settings have a test of their own in tests/unit."""
    checked = {"cli.md", "project-file.md", "features.md", "http-api.md", "metrics.md", "errors.md", "settings.md"}
    checked.add("messages.md")
    assert {page.name for page in Path(REFERENCE).glob("*.md")} == checked
