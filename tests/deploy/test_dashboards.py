"""The dashboards are those that their code writes, complete, and lead to pages that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana import build
from fraudml.monitoring.catalogue import CATALOGUE
from tests.docs.blocks import DOCS
from tests.support import promql

BOARDS: dict[str, dict[str, Any]] = {name: json.loads(text) for name, text in build.files().items()}
PANELS = [
    pytest.param(panel, id=f"{name.removesuffix('.json')}: {panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
PROVISIONING = build.PROVISIONED.with_name("provisioning")
RUNBOOKS = DOCS / "runbooks"
HOWTO = (DOCS / "howto" / "look-at-dashboards.md").read_text(encoding="utf-8")
# Of the Python client: they are documented, and of no kind of ours.
USUAL = re.compile(r"(process|python)_\w+")


def expressions(board: dict[str, Any]) -> Iterator[str]:
    """All that a dashboard asks Prometheus."""
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (mark["expr"] for mark in board["annotations"]["list"])


def test_what_is_provisioned_is_what_the_code_writes() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in build.PROVISIONED.iterdir()}
    assert there == build.files(), "run python -m deploy.grafana.build"


def test_dashboards_have_an_address_and_a_title_of_their_own() -> None:
    for name, board in BOARDS.items():
        assert name == f"{board['uid']}.json"
        assert "id" not in board
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS) == 5


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_read_as_it_was_written(name: str) -> None:
    """The library's types are those of Grafana's schema: what they cannot read Grafana would not."""
    read = json.loads(json.dumps(Dashboard.from_json(BOARDS[name]), default=lambda part: part.to_json()))
    # marks have texts, for which the library has no field
    assert read | {"annotations": None} == BOARDS[name] | {"annotations": None}


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_what_to_do(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert panel["targets"]
    for link in panel.get("links", ()):
        assert link["title"].removeprefix("Runbook ") in panel["description"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_fill_rows_and_lie_beside_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
    titles = [panel["title"] for panel in BOARDS[name]["panels"]]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", BOARDS)
def test_every_metric_that_is_shown_is_documented(name: str) -> None:
    used = {metric for expr in expressions(BOARDS[name]) for metric in promql.metrics(expr)}
    assert not {metric for metric in used if metric not in CATALOGUE and not USUAL.fullmatch(metric)}


def test_every_metric_is_shown() -> None:
    used = {metric for board in BOARDS.values() for expr in expressions(board) for metric in promql.metrics(expr)}
    assert not CATALOGUE.keys() - used


def test_every_runbook_that_a_panel_links_to_is_there_and_every_alert_has_a_panel() -> None:
    links = {link["title"].removeprefix("Runbook ") for panel in PANELS for link in panel.values[0].get("links", ())}
    if RUNBOOKS.exists():  # they are written with the alert rules
        alerts = {path.stem for path in RUNBOOKS.glob("*.md")} - {"index"}
        assert links == alerts
        assert alerts <= set(re.findall(r"\w+", HOWTO))


def test_the_guide_names_every_dashboard() -> None:
    assert not [board["title"] for board in BOARDS.values() if f"| {board['title']} |" not in HOWTO]


def test_provisioning_is_yaml_that_names_what_the_dashboards_use() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "fraudml.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "fraudml.yml").read_text())["providers"]
    assert provider["allowUiUpdates"] is False
