"""The project file: what it accepts, and how it says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fraudml import project
from fraudml.errors import ConfigError, FeatureError

GOOD = """
schema:
  event_time: {column: Time, format: seconds_from, start: 2024-03-01}
  entities: {card: card_no}
  amount: {column: amount}
features:
  - {name: n_1d, kind: window, over: card, agg: count, length: 1d}
"""


def test_a_date_needs_no_quotes() -> None:
    assert project.parse(GOOD).schema.event_time.start == "2024-03-01"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("column: amount", "colum: amount"), r"colum.*schema\.amount"),
        (("agg: count", "agg: median"), r"median"),
        (("over: card", "over: shop"), r"feature 'n_1d': no entity 'shop' in the schema \(it has: card\)"),
        (("length: 1d", "length: 1 fortnight"), r"not a duration"),
        (("schema:", "schema: ["), r"not valid YAML"),
        (("features:", "costs: {review_finds: 2}\nfeatures:"), r"review_finds is a share"),
        (("features:", "costs: {goodwill: .nan}\nfeatures:"), r"goodwill must be a number that is not negative"),
        (("features:", "costs: {goodwill: .inf}\nfeatures:"), r"goodwill must be a number that is not negative"),
        (("name: n_1d", "name: amount_minor"), r"a column of the schema"),
    ],
)
def test_what_is_wrong_is_named(change: tuple[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        project.parse(GOOD.replace(*change))


def test_two_names_that_differ_in_case_only_are_one() -> None:
    again = "  - {name: N_1D, kind: window, over: card, agg: count, length: 7d}\n"
    with pytest.raises(FeatureError, match="declared twice"):
        project.parse(GOOD + again)


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ("features: []\n", "'features' is there twice, in line 6 and in line 8"),
        ("costs: {review: 1, review: 2}\n", "'review' is there twice, in line 8 and in line 8"),
    ],
)
def test_a_key_that_occurs_twice_is_refused(again: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^fraudml.yaml: {said}; make one of them$"):
        project.parse(GOOD + again)


def test_a_merged_mapping_may_be_overridden() -> None:
    merged = "costs:\n  <<: &usual {review_finds: 0.5}\n  review_finds: 0.25\n"
    assert project.parse(GOOD + merged).costs.review_finds == 0.25


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fraudml init FILE"):
        project.read(tmp_path / "fraudml.yaml")


def test_yaml_makes_no_python_objects() -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        project.parse("schema: !!python/object/apply:os.getcwd []")
