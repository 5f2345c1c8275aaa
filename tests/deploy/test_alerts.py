"""The alert rules and routes, judged by the real promtool and amtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudml.monitoring.catalogue import CATALOGUE
from tests.deploy.alert_cases import FIRES, QUIET, Case

ROOT = Path(__file__).parents[2]
PROMETHEUS, ALERTMANAGER = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "alertmanager"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))


def _groups(name: str) -> list[dict[str, Any]]:
    path = PROMETHEUS / "rules" / f"{name}.yml"
    groups: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return groups


GROUPS = [group for path in RULES for group in _groups(path.stem)]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"] for group in GROUPS for rule in group["rules"] if "record" in rule}
# What Prometheus and its client have by themselves.
OF_OTHERS = {"up", "process_open_fds", "process_max_fds"}


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"no {tool}")
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False, timeout=300)


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    done = run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("concern", ["fraud", "data", "model", "machine"])
def test_every_alert_fires_when_it_should_and_is_quiet_when_not(tmp_path: Path, concern: str) -> None:
    """All cases of an interval in one run of ``promtool test rules``: each has series of its own."""
    of_it = [case for case in [*FIRES, *QUIET] if ALERTS[case.alert]["labels"]["concern"] == concern]
    paths = []
    for interval in sorted({case.interval for case in of_it}):
        document = {
            "rule_files": [str(PROMETHEUS / "rules" / f"{concern}.yml")],
            "evaluation_interval": interval,
            "group_eval_order": [group["name"] for group in _groups(concern)],
            "tests": [_test(case) for case in of_it if case.interval == interval],
        }
        paths.append(tmp_path / f"{interval}.yml")
        paths[-1].write_text(yaml.safe_dump(document), encoding="utf-8")
    done = run("promtool", "test", "rules", *paths)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(case: Case) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": f"{case.alert}: {case.why}",
        "interval": case.interval,
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": case.at, "exp_samples": [{"value": case.alerts}]}],
    }


TIMED = [(case, case.begins) for case in FIRES if case.begins is not None]


@pytest.mark.parametrize(("case", "begins"), TIMED, ids=[f"{case.alert}: {case.why}" for case, _ in TIMED])
def test_it_fires_in_the_time_that_it_says(case: Case, begins: str) -> None:
    """That it fires at ``at`` is what promtool says."""
    within = ALERTS[case.alert]["annotations"]["fires_within"]
    assert minutes(case.at) - minutes(begins) <= minutes(within)


def test_every_alert_promises_a_time() -> None:
    assert {case.alert for case, _ in TIMED} == set(ALERTS)


def minutes(text: str) -> int:
    """Of a duration as Prometheus writes it."""
    units = {"m": 1, "h": 60, "d": 24 * 60}
    return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+)([mhd])", text))


def test_every_alert_has_a_case_of_each_kind() -> None:
    assert {case.alert for case in FIRES} == set(ALERTS)
    assert {case.alert for case in QUIET} == set(ALERTS)


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_says_who_is_to_do_what(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"].keys() == {"severity", "audience", "concern"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["labels"]["audience"] in {"on-call", "analysts", "platform"}
    assert rule["annotations"].keys() == {"summary", "description", "fires_within", "dashboard", "runbook_url"}
    assert (ROOT / "deploy" / "grafana" / "provisioned" / f"{rule['annotations']['dashboard']}.json").exists()
    runbook = ROOT / rule["annotations"]["runbook_url"]
    text = runbook.read_text(encoding="utf-8")
    assert runbook.stem == name
    for part in ("## What it means", "## Look", "## Do", "## When it is a false alarm"):
        assert part in text
    assert f"within {rule['annotations']['fires_within']} of" in text
    assert f"Severity: {rule['labels']['severity']}" in text


def test_every_runbook_is_of_an_alert_and_in_the_list() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"index"}
    assert pages == set(ALERTS)
    listed = re.findall(
        r"\| \[(\w+)\]\(\1\.md\)", (ROOT / "docs" / "runbooks" / "index.md").read_text(encoding="utf-8")
    )
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["name"])
def test_rules_use_metrics_that_there_are(group: dict[str, Any]) -> None:
    for rule in group["rules"]:
        names = set(re.findall(r"(?<![:\w])(?:fraud|process)_\w+|\bup\b(?=\{)", rule["expr"]))
        known = {re.sub(r"_(count|sum|bucket)$", "", name) if name not in CATALOGUE else name for name in names}
        assert known <= set(CATALOGUE) | OF_OTHERS, rule
        assert set(re.findall(r"\bfraud:[\w:]+", rule["expr"])) <= RECORDED, rule


def test_alertmanager_takes_the_routes() -> None:
    done = run("amtool", "check-config", ALERTMANAGER / "alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("severity", "audience", "receivers"),
    [
        ("critical", "on-call", "on-call"),
        ("critical", "analysts", "analysts,on-call"),
        ("warning", "analysts", "analysts,nobody"),
        ("warning", "platform", "chat"),
        ("warning", "on-call", "chat"),
        ("info", "platform", "digest"),
    ],
)
def test_who_hears_of_it(severity: str, audience: str, receivers: str) -> None:
    labels = [f"severity={severity}", f"audience={audience}", "alertname=Any"]
    config = f"--config.file={ALERTMANAGER / 'alertmanager.yml'}"
    done = run("amtool", "config", "routes", "test", config, f"--verify.receivers={receivers}", *labels)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_what_cannot_wait_wakes_somebody() -> None:
    critical = {name for name, rule in ALERTS.items() if rule["labels"]["severity"] == "critical"}
    assert len(critical) <= len(ALERTS) / 3
    assert {ALERTS[name]["labels"]["audience"] for name in critical} <= {"on-call", "analysts"}
