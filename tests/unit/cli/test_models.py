"""``fraudml models`` over a registry in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from fraudml import wiring
from fraudml.cli import models, output
from fraudml.errors import ConfigError, NotFoundError, RegistryError
from fraudml.models import bundle
from fraudml.models.cascade import Cascade, StageTimes
from fraudml.models.registry import CHAMPION, ModelVersion
from fraudml.models.rollout import Change, Kind, Rollout
from tests.support.bundles import make_bundle
from tests.support.scoring import FEATURES


class Registry:
    """Two versions of one bundle; the second is the champion, after a detour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_bundle(folder, FEATURES, parameters={"depth": 3})
        metrics = {"average_precision": 0.6, "roc_auc": 0.9, "money_saved_per_day": 1234.5}
        aliases = {1: (), 2: (CHAMPION,)}
        self.models = [
            ModelVersion(number, "linear", "2024-05-01T00:00:00+00:00", FEATURES.fingerprint, aliases[number], metrics)
            for number in (2, 1)
        ]
        self.history = [
            Rollout(
                version, Change(Kind.promote, f"2024-05-0{version + 1}T00:00:00+00:00", "ann", reason), revision=version
            )
            for version, reason in ((1, "first"), (2, "better [on] paper [/bold]"))
        ]
        self.calls: list[tuple[Any, ...]] = []

    def versions(self) -> list[ModelVersion]:
        return self.models

    def resolve(self, name: str) -> ModelVersion:
        for each in self.models:
            if name in (str(each.version), *each.aliases):
                return each
        raise NotFoundError(f"there is no version {name} of model 'fraud'")

    def fetch(self, version: int) -> Path:
        return self.folder

    def rollouts(self) -> list[Rollout]:
        return self.history

    def revise(self, rollout: Rollout) -> Rollout:
        self.calls.append((rollout.change.kind, rollout.champion, rollout.change.reason))
        self.models = [
            msgspec.structs.replace(each, aliases=(CHAMPION,) if each.version == rollout.champion else ())
            for each in self.models
        ]
        return rollout


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry(tmp_path)
    monkeypatch.setattr(wiring, "registry", lambda _settings: found)
    monkeypatch.setattr(output.results, "width", 200)
    return found


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    models.add(app)
    return CliRunner().invoke(app, ["models", *arguments])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command shows a person; run without the runner, whose streams Rich does not see."""
    app = typer.Typer()
    app.callback()(lambda: None)
    models.add(app)
    app(["models", *arguments], standalone_mode=False)
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_list(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "list")
    for word in ("champion", "0.600", "0.900", "1,234", FEATURES.fingerprint[:12]):
        assert word in text
    assert json.loads(run("list", "--json").stdout) == json.loads(msgspec.json.encode(registry.models))


def test_list_of_none(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.models = []
    assert "fraudml train" in printed(capsys, "list")
    assert json.loads(run("list", "--json").stdout) == []


def test_a_metric_that_is_not_there_is_a_dash(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    registry.models = [msgspec.structs.replace(registry.models[0], metrics={})]
    text = printed(capsys, "list")
    assert "nan" not in text
    assert re.search(r"│\s+- │\s+- │\s+- │", text)


def test_show_the_champion(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show")
    for word in (
        "2023-11-14 to 2024-03-09, 5,000 transactions, 100 frauds, refitted",
        "d" * 64,
        "depth=3",
        "score 0.3",
        "score 0.9",
        "5: amount, distance",
        FEATURES.fingerprint,
        "still",
        "better [on] paper [/bold]",
    ):
        assert word in text
    assert "first" not in text, "the promotion of another version"
    assert "ann" in text


def test_show_a_cascade(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    told = Cascade("quick", "careful", 0.0125, 1.0, 0.005, 0.01, 0.97, 0.964, [StageTimes(256, 2.5, 10.0, 2.75)])
    bundle.save(registry.folder, b"", msgspec.structs.replace(bundle.read_manifest(registry.folder), cascade=told))
    text = printed(capsys, "show")
    for word in (
        "quick; where its score is 0.0125 to 1, careful",
        "0.50% of careful's, flagging 1.0% of genuine transactions",
        "97.0% of validation, 96.4% of test",
        "time per row, 256 at once",
        "2.50 us fast alone, 10.00 us accurate alone, 2.75 us cascade",
    ):
        assert word in text
    assert json.loads(run("show", "--json").stdout)["cascade"]["fast_share_test"] == 0.964


def test_show_a_former_champion(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "show", "1")
    assert "2024-05-03T00:00:00+00:00 (then version 2)" in text
    assert "still" not in text


def test_show_as_json(registry: Registry) -> None:
    found = json.loads(run("show", "champion", "--json").stdout)
    assert (found["version"], found["aliases"]) == (2, ["champion"])
    assert found["training"]["data_hash"] == "d" * 64
    assert found["thresholds"] == {"review": 0.3, "decline": 0.9}
    assert found["inputs"] == list(FEATURES.input_names)
    assert [each["reason"] for each in found["promotions"]] == ["better [on] paper [/bold]"]


def test_promote(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Version 1 (linear) is the champion" in printed(capsys, "promote", "1", "--reason", "cheaper")
    assert json.loads(run("promote", "1", "--reason", "x", "--json").stdout)["version"] == 1
    assert registry.calls == [("promote", 1, "cheaper"), ("promote", 1, "x")]


@pytest.mark.parametrize("arguments", [("promote", "1"), ("rollback",), ("promote", "one", "--reason", "x")])
def test_a_reason_and_a_number_are_needed(registry: Registry, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert registry.calls == []


def test_errors_reach_the_command_line_as_they_are(registry: Registry) -> None:
    assert isinstance(run("show", "9").exception, NotFoundError)
    assert isinstance(run("rollback", "--reason", "x", "--to", "9").exception, RegistryError)
    assert isinstance(run("rollback", "--reason", " ").exception, ConfigError)
    assert registry.calls == []


def test_rollback(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Version 1 (linear) is the champion" in printed(capsys, "rollback", "--reason", "slow")
    assert registry.calls == [("rollback", 1, "slow")]
