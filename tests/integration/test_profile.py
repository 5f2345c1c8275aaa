"""A flame graph of a live service, for administrators only, while it goes on scoring."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import ConfigError, FraudmlError, MissingExtra
from fraudml.monitoring import profile
from tests.support.commands import refused, well
from tests.support.scoring import row
from tests.support.server import Service

PROFILE = "/v1/admin/profile"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path)
    yield running
    running.stop()


def test_a_profile_shows_where_a_service_is_while_it_answers(service: Service) -> None:
    found: list[httpx.Response] = []

    def ask() -> None:
        found.append(service.as_("admin").post(PROFILE, params={"seconds": 2}))

    asking = threading.Thread(target=ask)
    asking.start()
    number = 0
    while asking.is_alive():
        number += 1
        assert service.client.post("/v1/predict", json=row(1 + number % 3_000)).status_code == 200
    asking.join()
    (answer,) = found
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["content-disposition"] == 'attachment; filename="profile.svg"'
    assert "<svg" in answer.text
    assert "_decide_all" in answer.text
    assert number > 10


def test_only_an_administrator_may_and_only_one_at_a_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for scope in ("score", "label", "read"):
        assert service.as_(scope).post(PROFILE).status_code == 403
    assert service.as_(None).post(PROFILE).status_code == 401
    begun, end = threading.Event(), threading.Event()

    def record(pid: int, path: Path, seconds: int, *, ending: threading.Event) -> None:
        begun.set()
        assert end.wait(30)
        path.write_bytes(b"<svg/>")

    monkeypatch.setattr(profile, "record", record)
    first = threading.Thread(target=lambda: service.as_("admin").post(PROFILE))
    first.start()
    assert begun.wait(30)
    with httpx.Client(headers=service.as_("admin").headers, verify=False) as second:  # noqa: S501 - loopback
        answer = second.post(f"http://127.0.0.1:{service.port}{PROFILE}")
    assert answer.status_code == 409
    assert "already" in answer.json()["detail"]
    end.set()
    first.join()


def test_a_client_that_leaves_ends_its_recording(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()
    really = profile.record

    def record(pid: int, path: Path, seconds: int, *, ending: threading.Event) -> None:
        begun.set()
        try:
            really(pid, path, seconds, ending=ending)
        finally:
            ended.set()

    monkeypatch.setattr(profile, "record", record)
    boss = service.as_("admin")
    asked = f"POST {PROFILE}?seconds=120 HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as leaving:
        leaving.sendall(f"{asked}Authorization: {boss.headers['Authorization']}\r\n\r\n".encode())
        assert begun.wait(30)
    assert ended.wait(60)  # and not after two minutes
    assert service.client.post("/v1/predict", json=row(1)).status_code == 200  # it goes on
    assert boss.post(PROFILE, params={"seconds": 1}).status_code == 200


@pytest.mark.parametrize("seconds", ["0", "121", "-1", "1.5", "x", ""])
def test_seconds_that_cannot_be_are_refused(service: Service, seconds: str) -> None:
    answer = service.as_("admin").post(PROFILE, params={"seconds": seconds})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "?seconds"


def test_what_is_missing_is_said(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise MissingExtra("profile")

    monkeypatch.setattr(profile, "tool", missing)
    answer = service.as_("admin").post(PROFILE, params={"seconds": 1})
    assert answer.status_code == 503
    assert "fraudml[profile]" in answer.json()["detail"]


def test_the_command_draws_another_process_and_says_what_cannot_be(tmp_path: Path) -> None:
    busy = "def work():\n    print('there', flush=True)\n    while True: pass\nwork()"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            done = well("profile", "--pid", str(process.pid), "--seconds", "1", "--json", cwd=tmp_path)
            assert done.json["path"] == "profile.svg"
            assert "work" in (tmp_path / "profile.svg").read_text(encoding="utf-8")
            refused("profile", "--pid", str(process.pid), "--seconds", "500", cwd=tmp_path)
            refused("profile", "--pid", str(process.pid), "--rate", "1000", cwd=tmp_path)
        finally:
            process.kill()
    for pid in (process.pid, 10**30, 0):
        assert "there is no process" in refused("profile", "--pid", str(pid), cwd=tmp_path)
    own = str(os.getpid())
    assert "no file can be written" in refused("profile", "--pid", own, "--out", "none/p.svg", cwd=tmp_path)
    assert "no file can be written" in refused("profile", "--pid", own, "--out", ".", cwd=tmp_path)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Error: Operation not permitted (os error 1)", "CAP_SYS_PTRACE"),
        ("Permission Denied: try running again with elevated permissions", "CAP_SYS_PTRACE"),
        ("Error: No such process (os error 3)", "It has ended"),
        ("Error: Failed to find python version from target process", "Is it a process of Python"),
        ("", "py-spy ended with 1"),
    ],
)
def test_what_py_spy_says_is_told_with_what_to_do(said: str, advice: str) -> None:
    assert advice in str(profile.complain(said, 1))


def test_a_process_that_ends_meanwhile_is_an_error(tmp_path: Path) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    gone.kill()
    gone.wait()
    path = tmp_path / "p.svg"
    with pytest.raises(FraudmlError, match="cannot be looked into"):
        profile._run(profile.command(gone.pid, path, 1), path, own=False, within_s=30, ending=threading.Event())


def test_a_process_that_is_none_of_python_is_an_error(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(FraudmlError, match="cannot be looked into"):
                profile.record(process.pid, tmp_path / "p.svg", 1)
        finally:
            process.kill()


def test_a_key_of_an_administrator_is_made_as_any_other() -> None:
    assert new_key("boss", [Scope.admin])[1].allows(Scope.admin)
    with pytest.raises(ConfigError):
        profile.record(os.getpid(), Path("p.svg"), 0)
