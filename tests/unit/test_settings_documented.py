"""Every setting is documented, and what is documented is a setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fraudml.settings import Settings

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
NAMES = {f"FRAUDML_{field}".upper() for field in Settings.model_fields}

# Read by the tests and the benchmarks, not by fraudml.
NOT_SETTINGS = {"FRAUDML_HANDBOOK"}


def documented() -> set[str]:
    return set(re.findall(r"`(FRAUDML_[A-Z0-9_]+)`", PAGE.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_setting_is_documented(name: str) -> None:
    assert name in documented(), f"describe `{name}` in docs/reference/settings.md"


def test_nothing_else_is_documented() -> None:
    assert documented() - NOT_SETTINGS <= NAMES


def test_every_setting_says_what_it_means() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]
