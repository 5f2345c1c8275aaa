"""The service keeps its promises: whatever is sent to it, it answers as its OpenAPI document says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
import schemathesis
from hypothesis import settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from fraudml.decisions.answer import encode
from fraudml.service.openapi import document
from tests.support.scoring import FEATURES, SCHEMA, row
from tests.support.server import Service

# Made without a service, so that the names of the tests are known before one runs.
DOCUMENT = json.loads(
    encode(document(SimpleNamespace(schema=SCHEMA, example=row(7), serving=("fraud", "1", len(FEATURES.inputs)))))
)  # type: ignore[arg-type]
# Most times that a schema allows are of years long ago, which are refused; these get further.
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2024, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
schemathesis.openapi.format("date-time", TIMES.map(datetime.isoformat))
# A profile takes seconds: tests/integration/test_profile.py
api = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig(seed=1)).exclude(path="/v1/admin/profile")
# What is refused though the document allows it, as JSON Schema has no words for it: times out of bounds, card numbers.
NOT_IN_A_SCHEMA = re.compile(r"a time\b|card number")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("schemathesis"))
    running.as_("admin").post("/v1/predict", json=row(7)).raise_for_status()
    yield running
    running.stop()


def test_the_service_has_this_document(service: Service) -> None:
    assert service.client.get("/openapi.json").json() == DOCUMENT


@api.parametrize()
@settings(max_examples=40)
def test_answers_are_as_documented(case: schemathesis.Case, service: Service) -> None:
    answer = case.call_and_validate(
        base_url=f"http://127.0.0.1:{service.port}",
        headers={"Authorization": f"Bearer {service.tokens['admin']}"},
        # More is accepted than is documented (a number as text, as files have it) and less: see below.
        excluded_checks=[negative_data_rejection, positive_data_acceptance],
    )
    if case.meta.generation.mode is schemathesis.GenerationMode.POSITIVE and answer.status_code == 422:
        for error in answer.json()["errors"]:
            assert NOT_IN_A_SCHEMA.search(error["expected"]), error
