"""A real Prometheus that scrapes the processes of a test every second."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.servers.process import LOOPBACK, ServerProcess, free_port

PROGRAM = shutil.which("prometheus")
EVERY = "1s"
_OFFSET = re.compile(r"\boffset \d+[smhdwy]")


class Prometheus:
    """One that runs; ``value`` asks it."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=f"{address}/api/v1", timeout=30)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression now; fails with what Prometheus says when it refuses the expression."""
        answer = self._client.get("/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{answer['error']}:\n{expr}"
        result = answer["data"]["result"]
        return result if answer["data"]["resultType"] == "vector" else [{"metric": {}, "value": result}]

    def rules(self) -> list[dict[str, Any]]:
        """All rules that it has loaded, as it says."""
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()


def now_not_then(expr: str) -> str:
    """An expression that asks of now where it asked of days ago: a test has no such past.

    >>> now_not_then("x offset 1w / y")
    'x / y'
    """
    return " ".join(_OFFSET.sub("", expr).split())


@contextmanager
def server(folder: Path, targets: Mapping[str, str], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Scrapes these jobs (``host:port`` by name) and evaluates copies of these rule files, each second."""
    assert PROGRAM is not None
    for path in rules:
        (folder / path.name).write_text(yaml.safe_dump(_each_second(path)), encoding="utf-8")
    config = {
        "global": {"scrape_interval": EVERY, "evaluation_interval": EVERY},
        "rule_files": [path.name for path in rules],
        "scrape_configs": [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    address = f"{LOOPBACK}:{free_port()}"
    options = [f"--web.listen-address={address}", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]

    def answers() -> None:
        httpx.get(f"http://{address}/-/ready").raise_for_status()

    process = ServerProcess([PROGRAM, *options], folder, answers, None)
    made = Prometheus(f"http://{address}")
    try:
        process.start()
        yield made
    finally:
        made.close()
        process.stop()


def _each_second(path: Path) -> Any:
    rules = yaml.safe_load(path.read_text(encoding="utf-8"))
    for group in rules["groups"]:
        group["interval"] = EVERY
        for rule in group["rules"]:
            rule["expr"] = now_not_then(rule["expr"])
    return rules
