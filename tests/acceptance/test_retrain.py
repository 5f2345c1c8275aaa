"""``fraudml retrain`` as a scheduler runs it: a champion that was trained on the past, a log of what came after."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fraudml import wiring
from fraudml.settings import Settings
from tests.support import prepared
from tests.support.commands import fraudml, refused, well
from tests.support.deciding import Row, decide, halve

DECIDED = 5_900


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 knows the first four months; the next four are in the log, with reports of fraud alone. It declines one
    in forty, about which nobody learns anything, and its scores rise in the second half."""
    directory = tmp_path_factory.mktemp("decided")
    well("simulate", "all.csv", "--rows", "12000", "--days", "240", "--fraud-rate", "0.08", cwd=directory)
    halve(directory, "all.csv", "past.csv", "later.csv")
    well("init", "past.csv", "--yes", cwd=directory)
    well("train", "--family", "logistic_regression", cwd=directory)

    def declined(row: Row) -> bool:
        return bool(int(row["transaction_id"].strip("TX")) % 40 == 0)

    count = decide(
        directory,
        "later.csv",
        score=lambda number: (number % 100) / 200 + (0.3 if number > DECIDED / 2 else 0.0),
        declined=declined,
        reported=lambda row: row["is_fraud"] and not declined(row),
    )
    assert count == pytest.approx(DECIDED, rel=0.05)
    return directory


@pytest.fixture
def project(decided: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "project"
    shutil.copytree(decided, copy)
    return copy


def retrained(project: Path, *options: str) -> Any:
    return well("retrain", *options, "--json", cwd=project).json


def served(project: Path) -> Any:
    return well("rollout", "history", "--json", cwd=project).json[-1]


def versions(project: Path) -> list[int]:
    return [each["version"] for each in well("models", "list", "--json", cwd=project).json]


def test_better_is_tried_as_a_canary_and_a_rollout_under_way_is_not_touched(project: Path) -> None:
    outcome = retrained(project)
    assert (outcome["decision"], outcome["champion"], outcome["version"]) == ("canary", 1, 2), outcome["reason"]
    compared = outcome["comparison"]
    difference = compared["average_precision"]
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    assert difference["value"] >= outcome["margin"] == 0.01
    measured = {name: compared[name]["metrics"]["average_precision"] for name in ("champion", "challenger")}
    assert measured["challenger"] - measured["champion"] == pytest.approx(difference["value"])
    assert outcome["champion_trained_until_us"] < outcome["fitted"]["until_us"] < compared["since_us"]
    assert outcome["fitted"]["family"] == "logistic_regression"
    assert outcome["maturity"] == "30d"
    assert outcome["labels"]["assumed_genuine"] > DECIDED / 2
    assert 0 < compared["unknown_declines"] < outcome["labels"]["unknown"] < DECIDED / 30
    document = served(project)
    assert (document["champion"], document["change"]["kind"]) == (1, "start")
    assert "average precision" in document["change"]["reason"]
    experiment = document["experiment"]
    assert (experiment["mode"], experiment["entity"]) == ("canary", "customer")
    assert experiment["challengers"] == [{"version": 2, "slots": [[0, 50_000]]}]
    assert experiment["guardrails"]["max_psi"] == 0.25

    again = retrained(project)
    assert (again["decision"], again["version"]) == ("registered", 3)
    assert "a rollout is under way" in again["reason"]
    assert served(project) == document
    aliases = {each["version"]: each["aliases"] for each in well("models", "list", "--json", cwd=project).json}
    assert aliases == {1: ["champion"], 2: ["challenger"], 3: []}
    assert well("models", "show", "2", cwd=project).out


def test_not_better_changes_nothing(project: Path) -> None:
    before = served(project)
    outcome = retrained(project, "--margin", "0.5")
    assert (outcome["decision"], outcome["version"]) == ("not_better", None)
    assert outcome["comparison"]["average_precision"]["low"] > 0, "only the margin is missed"
    assert "at least 0.5" in outcome["reason"]
    assert (versions(project), served(project)) == ([1], before)
    said = well("retrain", "--margin", "0.5", cwd=project)
    assert "Not better, and not registered" in said.err
    assert "declined transactions" in said.err
    assert "card precision@100" in said.out


def test_only_registered(project: Path) -> None:
    outcome = retrained(project, "--register-only")
    assert (outcome["decision"], outcome["version"]) == ("registered", 2)
    assert served(project)["experiment"] is None
    assert Path(project / outcome["report"]).is_file()
    well("rollout", "start", cwd=project)  # its alias is challenger


def test_promoted_only_when_told_to_and_then_it_is_too_soon_for_another(project: Path) -> None:
    outcome = retrained(project, "--promote")
    assert (outcome["decision"], outcome["version"]) == ("promoted", 2)
    document = served(project)
    assert (document["champion"], document["change"]["kind"]) == (2, "promote")
    trained_until = well("models", "show", "2", "--json", cwd=project).json["training"]["until_us"] / 1e6
    days = int((time.time() - trained_until) / 86_400)
    outcome = retrained(project, "--maturity", f"{days}d")  # less than a day has matured since
    assert (outcome["decision"], outcome["champion"], outcome["fitted"]) == ("too_soon", 2, None)
    assert "20 are needed" in outcome["reason"]
    assert versions(project) == [2, 1]


def test_too_few_labels_are_an_error(project: Path) -> None:
    for path in (project / ".fraudml").glob("fraudml.db*"):
        path.unlink()
    decide(project, "later.csv", reported=lambda row: False)
    said = refused("retrain", "--history", "", cwd=project)
    assert "0 labelled frauds" in said
    assert versions(project) == [1]


def test_only_after_drift(project: Path) -> None:
    outcome = retrained(project, "--if-drift", "20", "--drift-window", "30min")
    assert (outcome["decision"], outcome["comparison"]) == ("no_drift", None)
    drift = outcome["drift"]
    assert (drift["first"], drift["latest"]) == (pytest.approx(1_800, abs=1), pytest.approx(1_800, abs=1))
    outcome = retrained(project, "--if-drift", "0.25", "--drift-window", "30min", "--register-only")
    assert outcome["decision"] == "registered"
    assert outcome["drift"] == drift
    outcome = retrained(project, "--if-drift", "0.25")
    assert outcome["decision"] == "no_drift"
    assert "cannot be told" in outcome["reason"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--register-only", "--promote"), "not both"),
        (("--maturity", "soon"), "'soon' is not a duration"),
        (("--every", "0s"), "--every"),
        (("--every", "often"), "'often' is not a duration"),
        (("--share", "150%"), "at most 100%"),
        (("--family", "crystal_ball"), "crystal_ball"),
        (("--history", "missing.csv"), "missing.csv"),
    ],
)
def test_mistakes(decided: Path, options: tuple[str, ...], reason: str) -> None:
    assert reason in refused("retrain", *options, cwd=decided)


def test_without_a_champion(decided: Path, tmp_path: Path) -> None:
    shutil.copy(decided / "fraudml.yaml", tmp_path)
    assert "fraudml train" in refused("retrain", cwd=tmp_path)


def test_two_at_once_do_not_fight_and_the_next_run_happens_until_it_is_told_to_stop(project: Path) -> None:
    settings = Settings(_env_file=None, home=project / ".fraudml")
    words = ("retrain", "--if-drift", "20", "--drift-window", "30min")
    with wiring.only_one(settings, "retrain"):
        assert "another `fraudml retrain` runs" in refused(*words, cwd=project)
        repeated = subprocess.Popen(
            [*prepared.command(), *words, "--every", "1s"],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert repeated.stderr is not None
        assert "another `fraudml retrain` runs" in next(line for line in repeated.stderr if line.startswith("fraudml"))
    for _ in range(2):
        assert next(line for line in repeated.stderr if line.startswith("Nothing was trained"))
    repeated.send_signal(signal.SIGTERM)
    assert repeated.wait(30) == 0
    repeated.communicate()
    assert fraudml(*words, cwd=project).code == 0, "the lock is free"
