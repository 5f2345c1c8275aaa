"""What the normaliser does beyond what files can test (see tests/unit/source/test_files_match_normaliser.py)."""

from __future__ import annotations

import pytest

from fraudml.errors import RowError
from fraudml.events.cards import CardHasher
from fraudml.events.normalise import UNKNOWN_TOLD, Normaliser
from tests.support.scoring import SCHEMA, row


def test_of_very_many_unknown_fields_the_first_are_named() -> None:
    normalise = Normaliser(SCHEMA, CardHasher(b"key"))
    with pytest.raises(RowError) as refused:
        normalise(row(1) | {f"x{i:06d}": 1 for i in range(100_000)})
    assert [problem.path for problem in refused.value.problems] == [f"x{i:06d}" for i in range(UNKNOWN_TOLD)]
