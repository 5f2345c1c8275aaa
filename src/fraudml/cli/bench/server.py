"""The server under load: one of our own, on a copy of the project's model, or one that runs already."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from fraudml import wiring
from fraudml.cli.bench.child import Cores, running
from fraudml.cli.demo.processes import Service
from fraudml.decisions.keys import Scope, new_key
from fraudml.errors import ConfigError
from fraudml.models import lifecycle
from fraudml.project import Project
from fraudml.settings import Settings, environment_with

KEY_NAME = "bench"


@dataclass(frozen=True)
class Target:
    """Where a server listens, and the process to watch; ``None``: it is none of ours."""

    host: str
    port: int
    key: str
    pid: int | None = None
    model_version: str | None = None


def given(url: str, key: str | None) -> Target:
    """A server that runs already; raises ConfigError for a URL that is none.

    >>> given("http://127.0.0.1:8000", "fml_x").port
    8000
    """
    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port or parts.path.strip("/"):
        raise ConfigError(f"--url {url!r} is not like http://127.0.0.1:8000 (the load speaks plain HTTP only)")
    if not key:
        raise ConfigError("--url needs --key; make one with: fraudml keys create bench --scope score")
    return Target(parts.hostname, port, key)


@contextmanager
def own(
    current: Settings,
    declared: Project,
    project_file: Path,
    model: str,
    history: Sequence[str],
    cores: Cores,
    database_url: str | None = None,
    program: Sequence[str] = ("-m", "fraudml"),
    **settings: str,
) -> Iterator[Target]:
    """A ``fraudml serve`` of the project's model, with a home of its own that is removed afterwards.

    The project's decision log, registry and keys are only read; everything else is set as it is for the project,
    but for these ``settings``. ``database_url``: an empty database for the decisions; by default a SQLite file.
    ``program``: what Python runs.
    """
    with tempfile.TemporaryDirectory(prefix="fraudml-bench-", ignore_cleanup_errors=True) as place:
        home = Path(place)
        database = None if database_url is None else SecretStr(database_url)
        changes = {"home": home, "database_url": database, "registry_url": None, "redis_url": None}
        private = current.model_copy(update=changes)
        version = _copy_model(current, private, model)
        token, key = new_key(KEY_NAME, [Scope.score])
        with wiring.keys(private, declared.schema) as keys:
            keys.add(key)
        own_settings = {
            "home": str(home),
            "database_url": private.log_url(),
            "redis_url": "",
            "registry_url": f"sqlite:///{(home / 'registry.db').absolute().as_posix()}",
            "rate_limit_per_s": "0",
        }
        environment = environment_with(**own_settings | settings)
        command = [sys.executable, *program, "serve", "--host", "127.0.0.1", "--port", "0"]
        command += ["--project", str(project_file)]
        for path in history or [""]:
            command += ["--history", path]
        log = home / "serve.log"
        with (
            log.open("wb") as sink,
            running(command, cores, stdout=sink, stderr=sink, env=environment) as process,
        ):
            service = Service(process, log)
            service.wait_until_ready()
            yield Target("127.0.0.1", service.port, token, process.pid, version)


def _copy_model(current: Settings, private: Settings, model: str) -> str:
    """Register the model in the private home as its champion; its version in the project's registry."""
    models, copies = wiring.registry(current), wiring.registry(private)
    found = models.resolve(model)
    lifecycle.promote(copies, copies.register(models.fetch(found.version)).version, "for a benchmark")
    hash_key = current.home / "hash.key"
    if hash_key.exists():
        private.home.mkdir(parents=True, exist_ok=True)
        shutil.copy2(hash_key, private.home / hash_key.name)
    return str(found.version)
