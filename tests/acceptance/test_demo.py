"""The demo from its first line to its last, as a real process, and what it does when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest

from fraudml.cli.demo import workspace
from fraudml.errors import ConfigError
from tests.support.commands import refused, well

SMALL = ("--rows", "20000", "--fraud-rate", "0.03")  # the fewest that it takes
WITHIN_S = 600  # only against hanging


@contextmanager
def started(directory: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, which is gone at the end whatever happens."""
    with (directory / "said.txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "fraudml", "demo", *SMALL, *options],
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=said if "--json" in options else subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            stream(process).close()


def stream(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def answers(port: int) -> bool:
    """Whether anything listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_gone(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A whole demo that ends by itself: its directory and its figures."""
    directory = tmp_path_factory.mktemp("demo")
    done = well("demo", "--exit", "--json", *SMALL, "--keep", "here", cwd=directory)
    return directory / "here", done.json


def test_all_goes_well(shown: tuple[Path, dict[str, Any]]) -> None:
    _, found = shown
    assert found["problems"] == []
    assert found["audit"]["differing"] == 0
    assert found["audit"]["decisions"] == found["transactions"] == found["labels_recorded"]
    assert found["audit"]["values"] >= 20 * found["transactions"]


def test_it_detects_fraud_and_saves_money(shown: tuple[Path, dict[str, Any]]) -> None:
    _, found = shown
    assert found["average_precision"] > 5 * found["frauds"] / found["transactions"]
    assert 0 < found["recall"] <= 1
    assert found["cost_per_day"] < found["cost_per_day_without_model"]
    saved = found["cost_per_day_without_model"] - found["cost_per_day"]
    assert found["saved_per_day"] == pytest.approx(saved)
    assert sum(pattern["frauds"] for pattern in found["patterns"].values()) == found["frauds"]
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["p99"]


def test_the_reasons_explain_the_score(shown: tuple[Path, dict[str, Any]]) -> None:
    explained = shown[1]["explained"]
    total = sum(reason["contribution"] for reason in explained["reasons"]) + explained["other_contributions"]
    assert explained["base_log_odds"] + total == pytest.approx(explained["log_odds"])
    assert all(reason["text"] for reason in explained["reasons"])


def test_what_it_made_is_kept_and_the_service_is_not(shown: tuple[Path, dict[str, Any]]) -> None:
    directory, found = shown
    assert Path(found["report"]).is_file()
    assert (directory / "fraudml.yaml").is_file()
    assert "fraud_pattern" not in (directory / "history.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert "fraud_pattern" not in (directory / "fraudml.yaml").read_text(encoding="utf-8")
    assert not answers(port_of(found["url"]))


def test_a_users_own_settings_are_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    monkeypatch.setenv("FRAUDML_HOME", str(mine))
    with started(tmp_path) as process:
        for line in stream(process):
            if "fraudml train" in line and line.startswith("$"):
                break
        process.send_signal(signal.SIGTERM)
        stream(process).read()
        assert process.wait(WITHIN_S) == 128 + signal.SIGTERM
    assert is_gone(process.pid)
    assert not mine.exists()


def test_without_exit_the_service_runs_until_ctrl_c(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        said = ""
        for line in stream(process):
            said += line
            if "Ctrl-C" in line:
                break
        (url,) = re.findall(r"(http://127\.0\.0\.1:\d+)/docs", said)
        with urllib.request.urlopen(f"{url}/health/ready", timeout=10) as ready:  # noqa: S310
            assert msgspec.json.decode(ready.read())["status"] == "ready"
        again = refused("demo", *SMALL, cwd=tmp_path)
        assert "another demo is running" in again
        process.send_signal(signal.SIGINT)
        said += stream(process).read()
        assert process.wait(WITHIN_S) == 0, said
    assert not answers(port_of(url))
    for word in ("fraudml init", "fraudml train", "fraudml models promote", "fraudml serve", "p50, p95, p99", "saved"):
        assert word in said
    assert "Traceback" not in said


def test_a_directory_that_no_demo_made_is_refused(tmp_path: Path) -> None:
    mine = tmp_path / "fraudml-demo"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    assert "no demo made it" in refused("demo", "--exit", cwd=tmp_path)
    assert (mine / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "fraudml-demo").symlink_to(tmp_path / "real")
    assert "not a directory" in refused("demo", "--exit", cwd=tmp_path)


def test_an_old_demo_is_emptied_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").touch()
    with workspace.fresh(tmp_path / "demo") as directory:
        (directory / "folder").mkdir()
        (directory / "folder" / "old.txt").touch()
        (directory / "link").symlink_to(outside)
        with pytest.raises(ConfigError, match="another demo is running"), workspace.fresh(directory):
            pass
    with workspace.fresh(directory):
        assert [path.name for path in directory.iterdir() if not path.name.startswith(workspace.MARKER)] == []
    assert (outside / "kept.txt").exists()


def test_the_cut_keeps_the_truth_and_the_future_out_of_history(tmp_path: Path) -> None:
    simulated, history = tmp_path / "simulated.csv", tmp_path / "history.csv"
    well("simulate", str(simulated), "--rows", "3000", "--days", "20", "--fraud-rate", "0.1", "--truth", cwd=tmp_path)
    moment, later = workspace.cut(simulated, history, days=15)
    lines = history.read_text(encoding="utf-8").splitlines()
    time = lines[0].split(",").index("event_time")
    assert "fraud_pattern" not in lines[0]
    assert max(line.split(",")[time] for line in lines[1:]) < moment <= min(row["event_time"] for row in later)
    assert len(lines) + len(later) == len(simulated.read_text(encoding="utf-8").splitlines())
    assert any(row["fraud_pattern"] for row in later)
