"""Guardrails of a rollout: limits that make sense, and clear words where they do not."""

from __future__ import annotations

import msgspec
import pytest

from fraudml.errors import ConfigError
from fraudml.models.rollout_guardrails import Guardrails


def test_defaults_survive_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Guardrails()), type=Guardrails) == Guardrails()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.0),
        ("alpha", 0.6),
        ("max_error_rate", 0.0),
        ("max_slow_share", 1.0),
        ("max_decline_shift", -0.1),
        ("max_review_shift", float("nan")),
        ("slow_ms", 0.0),
        ("max_psi", float("inf")),
        ("max_extra_cost_per_1000", -1.0),
        ("min_decisions", 9),
        ("min_costly", 0),
    ],
)
def test_what_cannot_be_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"guardrails\.{field}"):
        Guardrails(**{field: value})


def test_unknown_names_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="max_errors"):
        msgspec.json.decode(b'{"max_errors": 0.1}', type=Guardrails)
