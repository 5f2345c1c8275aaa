"""Fixtures that the suites of the decision log share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fraudml.decisions.log import DecisionLog
from tests.support.logs import ADAPTERS, Backend, Open


@pytest.fixture(params=sorted(ADAPTERS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """Where a test's decisions are kept."""
    return ADAPTERS[request.param](request)


@pytest.fixture
def reopen(backend: Backend) -> Iterator[Open]:
    """Opens the same log again, as after a restart."""
    opened: list[DecisionLog] = []

    def open_log() -> DecisionLog:
        for log in opened:
            log.close()
        opened.append(backend.open())
        return opened[-1]

    yield open_log
    for log in opened:
        log.close()


@pytest.fixture
def log(reopen: Open) -> DecisionLog:
    return reopen()
