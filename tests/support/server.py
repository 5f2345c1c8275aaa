"""The real service in a thread, on a port that the system chose."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx

from fraudml.adapters.log.journal import FileJournal
from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.keys import Scope, new_key
from fraudml.decisions.model import Model
from fraudml.decisions.recorder import Recorder
from fraudml.decisions.scorer import Scorer
from fraudml.events.cards import CardHasher
from fraudml.monitoring.metrics import Metrics
from fraudml.scoring.process import Shared
from fraudml.service.app import create_app
from fraudml.service.limits import RateLimiter
from fraudml.service.server import bind, server
from fraudml.service.state import ServiceState
from fraudml.settings import Settings
from tests.support.scoring import SCHEMA, ReferenceStore, bundle, row

LOG_TIMEOUT_MS = 50  # tests that take the log away need not wait long


class Service:
    """One running service; ``tokens`` has a key for each scope, ``client`` sends the one for scoring."""

    def __init__(
        self, folder: Path, *, shared: Shared | None = None, limit: RateLimiter | None = None, **settings: Any
    ) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA, timeout_ms=LOG_TIMEOUT_MS)
        self.tokens: dict[str, str] = {}
        for scope in Scope:
            self.tokens[scope.value], key = new_key(f"{scope}-{len(self.log.keys.all())}", [scope])
            self.log.keys.add(key)
        self.store = ReferenceStore()
        for batch in self.log.replay():
            self.store.load(batch)
        self.store.add_labels(list(self.log.later_labels()))
        self.model = Model(bundle())
        self.journal = FileJournal(folder / "decisions.journal")
        recorder = Recorder(self.log, self.journal)
        metrics = Metrics()
        self.state = ServiceState(
            schema=SCHEMA,
            hasher=CardHasher(b"key"),
            scorer=Scorer(self.model, self.store, self.log, recorder=recorder, on_stage=metrics.stage),
            log=self.log,
            settings=Settings(_env_file=None, **settings),
            example=row(7),
            metrics=metrics,
            shared=shared,
            limit=limit,
        )
        self._server = server(create_app(self.state))
        bound = bind("127.0.0.1", 0)
        bound.listen()
        self.port = bound.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [bound]})
        self._thread.start()
        self._clients: dict[str | None, httpx.Client] = {}
        self.client = self.as_("score")

    def as_(self, scope: str | None) -> httpx.Client:
        """A client that sends the key of a scope; with ``None`` it sends none."""
        if scope not in self._clients:
            headers = {"Authorization": f"Bearer {self.tokens[scope]}"} if scope else {}
            base = f"http://127.0.0.1:{self.port}"
            self._clients[scope] = httpx.Client(base_url=base, headers=headers, timeout=30, verify=False)  # noqa: S501
        return self._clients[scope]

    def stop(self) -> None:
        for client in self._clients.values():
            client.close()
        self._server.should_exit = True
        self._thread.join()
