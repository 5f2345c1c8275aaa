"""The process in which a service asks its registry: what it is, how it ends, and who is not harmed by that."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fraudml import project as projects
from fraudml import wiring
from fraudml.adapters.registry import _process
from fraudml.adapters.registry.apart import RegistryApart
from fraudml.errors import RegistryError
from fraudml.models import lifecycle
from fraudml.settings import Settings
from tests.integration.test_refresh import DECLARED
from tests.support import prepared
from tests.support.bundles import make_bundle
from tests.support.commands import well
from tests.support.serving import children, serving
from tests.support.waiting import until

PATIENCE_S = 60


def wait_for_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ready, _, _ = select.select([handle], [], [], PATIENCE_S)
    os.close(handle)
    assert ready, "it lives"


def apart(home: Path, url: str | None = None) -> RegistryApart:
    return RegistryApart(url, home=home, model_name="fraud")


def test_it_may_be_started_before_it_is_asked(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    registry = apart(tmp_path)
    registry.start()
    (process,) = set(children(os.getpid())) - before
    assert registry.versions() == []
    assert set(children(os.getpid())) - before == {process}
    assert "/pandas/" not in Path(f"/proc/{process}/maps").read_text(encoding="utf-8"), "which no answer needs"
    registry.close()
    wait_for_end(process)


def test_it_ends_under_a_question_and_the_next_one_starts_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for library in ("OMP", "OPENBLAS"):  # whose threads would be taken for ours
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    before = set(children(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        registry = apart(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
        hanging = pool.submit(registry.rollouts)
        with server.accept()[0]:  # it has asked, and nobody answers
            (process,) = set(children(os.getpid())) - before
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            threads = [int(task.name) for task in Path(f"/proc/{process}/task").iterdir()]
            priorities = {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}
            assert priorities == {ours, ours + _process.NICE}, "the first question is asked as fast as we would"
            with pytest.raises(RegistryError, match=r"registry at http://127\.0\.0\.1:\d+ failed"):
                _refused(server, registry)  # a call that hangs holds up no other
            os.kill(process, signal.SIGKILL)
            with pytest.raises(RegistryError, match=r"has ended \(exit code -9\)"):
                hanging.result(PATIENCE_S)
        with pytest.raises(RegistryError, match=r"registry at http://127\.0\.0\.1:\d+ failed"):
            _refused(server, registry)
        (another,) = set(children(os.getpid())) - before
        assert another != process
        registry.close()
        wait_for_end(another)


def _refused(server: socket.socket, registry: RegistryApart) -> None:
    """Ask, while the server hangs up on whoever comes."""

    def hang_up() -> None:
        server.accept()[0].close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        registry.versions()
    finally:
        thread.join()


def test_closing_ends_what_is_under_way(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        registry = apart(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")
        hanging = pool.submit(registry.versions)
        with server.accept()[0]:
            registry.close()
            with pytest.raises(RegistryError, match=r"has ended \(exit code 0\)"):
                hanging.result(PATIENCE_S)
    registry.close()  # once more is no harm


ANSWERS_NONSENSE = "from multiprocessing.connection import Connection as C; c = C(0); c.recv_bytes(); c.recv_bytes(); "


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("/nowhere/python",), "cannot be started: .*No such file"),
        ((sys.executable, "-c", "raise SystemExit(3)"), r"has ended \(exit code 3\)"),
        (
            (sys.executable, "-c", ANSWERS_NONSENSE + r"c.send_bytes(b'\xc1'); c.recv_bytes()"),
            r"has ended \(exit code -9\)",
        ),
    ],
)
def test_a_process_that_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Sequence[str], problem: str
) -> None:
    registry = apart(tmp_path)
    monkeypatch.setattr(RegistryApart, "command", command)
    for _ in range(2):
        with pytest.raises(RegistryError, match=problem):
            registry.versions()


def test_what_nobody_has_foreseen_is_told_with_where_it_was(tmp_path: Path) -> None:
    class Careless(RegistryApart):
        def ask(self) -> object:
            return self._started().call(str, "fetch")  # without a version

    registry = Careless(None, home=tmp_path, model_name="fraud")
    with pytest.raises(RuntimeError, match=r"(?s)in the process that asks the model registry:.*Traceback.*TypeError"):
        registry.ask()
    registry.close()


def test_a_library_that_ends_its_thread_leaves_nobody_waiting() -> None:
    question = _process.Question(7, "versions", [])
    answer = _process._answer({"versions": sys.exit}, question)
    assert answer.number == 7
    assert answer.failure is not None
    assert "SystemExit" in answer.failure.text


def test_a_service_outlives_it_and_it_does_not_outlive_a_service(tmp_path: Path) -> None:
    (tmp_path / "fraudml.yaml").write_text(DECLARED, encoding="utf-8")
    (tmp_path / "mlflow.py").write_text("raise SystemExit('not the library')", encoding="utf-8")
    registry = wiring.registry(Settings(_env_file=None, home=prepared.empty_registry(tmp_path / ".fraudml")))
    for number in (1, 2):
        make_bundle(tmp_path / str(number), projects.parse(DECLARED).feature_set, bias=-float(number))
        registry.register(tmp_path / str(number))
    lifecycle.promote(registry, 1, "the first")
    key = well("keys", "create", "load", "--scope", "score", cwd=tmp_path).out.strip()
    row = {"time": "2024-05-01T00:00:00Z", "customer_id": "c", "amount": 1}
    with serving(tmp_path, as_users_do=True, refresh_s="0.1") as service, service.client(key) as client:
        pid = service.process.pid
        (process,) = children(pid)
        assert os.getpriority(os.PRIO_PROCESS, process) == os.getpriority(os.PRIO_PROCESS, pid) + _process.NICE
        assert os.getsid(process) == os.getsid(pid), "else its priority would not count against the service's"
        assert os.getpgid(process) != os.getpgid(pid), "else Ctrl-C would end it first"
        os.kill(process, signal.SIGKILL)
        first = client.post("/v1/predict", json={"tx": "a", **row})
        assert (first.status_code, first.json()["model_version"]) == (200, "1")
        lifecycle.promote(registry, 2, "better")
        numbers = iter(range(10_000))

        def serves_the_second() -> bool:
            answer = client.post("/v1/predict", json={"tx": f"b{next(numbers)}", **row})
            assert answer.status_code == 200
            return bool(answer.json()["model_version"] == "2")

        until(serves_the_second)
        (another,) = children(pid)
        service.process.kill()
        wait_for_end(another)
