"""Drift is found where there is some, of the kind that it is; chance, and too little data, are not taken for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudml.adapters.log.sqlite import SqliteDecisionLog
from fraudml.decisions.record import pack_vector
from fraudml.monitoring.drift import compare, page, sample
from fraudml.monitoring.drift.columns import FeatureDrift, categorical, judged, numeric
from fraudml.monitoring.drift.compare import DRIFTED, STABLE, UNKNOWN, DriftReport
from fraudml.monitoring.drift.index import counts_of, edges_of, psi_of_counts
from tests.support.scoring import FEATURES, SCHEMA, T0, decision, transaction

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
Change = Callable[[dict[str, Any], np.random.Generator], None]
NOW = T0 + 30 * DAY_US


def nothing(facts: dict[str, Any], random: np.random.Generator) -> None:
    """As ever."""


class World:
    """A log of 15 days, 1,200 decisions a day; those of the last day are changed."""

    def __init__(
        self, folder: Path, change: Change = nothing, *, seed: int = 0, per_day: int = 1_200, days: int = 15
    ) -> None:
        self.log = SqliteDecisionLog(f"sqlite:///{folder / 'log.db'}", SCHEMA)
        random = np.random.default_rng(seed)
        first = NOW - days * DAY_US
        times = np.sort(random.integers(first, NOW, days * per_day))
        times[-1] = NOW - 1
        made = []
        for number, time in enumerate(times.tolist()):
            facts: dict[str, Any] = {
                "amount": float(random.lognormal(3, 1)),
                "distance": float(random.gamma(2, 5)),
                "n_1d": float(random.poisson(2)),
                "sum_1d": 7.0,
                "frauds_30d": float("nan"),
                "country": str(random.choice(["DE", "FR", "AT"], p=[0.6, 0.3, 0.1])),
                "score": float(random.beta(0.5, 12)),
                "late_us": 1_000,
            }
            if time >= NOW - DAY_US:
                change(facts, random)
            event = transaction(number, country=facts["country"])
            event = type(event)(f"t{number}", time, event.entities, event.amount_minor, event.attributes)
            vector = pack_vector(np.array([facts[name] for name in FEATURES.input_names]))
            made.append(decision(event, time + facts["late_us"] + number % 7, vector=vector, score=facts["score"]))
        made.sort(key=lambda each: each.arrival)
        for first_row in range(0, len(made), 5_000):
            self.log.append(made[first_row : first_row + 5_000])

    def report(self, **periods: Any) -> DriftReport:
        reference, current, notes = compare.periods(self.log, now_us=NOW, **periods)
        return compare.compare(self.log, FEATURES, reference, current, notes=notes)


def of(report: DriftReport, name: str) -> FeatureDrift:
    return next(each for each in report.features if each.name == name)


def test_no_drift(tmp_path: Path) -> None:
    report = World(tmp_path).report()
    assert report.verdict == STABLE
    assert report.share == 1
    assert report.volume_ratio == pytest.approx(1, abs=0.15)
    assert [each.name for each in report.features if each.kind == "category"] == ["country"]
    assert "None of 6 features has drifted" in report.words


def null(facts: dict[str, Any], random: np.random.Generator) -> None:
    if random.random() < 0.3:
        facts["amount"] = float("nan")


def cents(facts: dict[str, Any], random: np.random.Generator) -> None:
    facts["amount"] *= 100


def renamed(facts: dict[str, Any], random: np.random.Generator) -> None:
    facts["country"] = facts["country"].replace("FR", "FRA")


def constant_changes(facts: dict[str, Any], random: np.random.Generator) -> None:
    facts["sum_1d"] = 8.0


def appears(facts: dict[str, Any], random: np.random.Generator) -> None:
    facts["frauds_30d"] = 0.0


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (null, "amount", "missing in 30.9%"),
        (cents, "amount", "as if a unit had changed"),
        (renamed, "country", "looks renamed: 'FR' to 'FRA'"),
        (constant_changes, "sum_1d", "largely otherwise distributed"),
        (appears, "frauds_30d", "missing in 0.0% of decisions, before in 100.0%"),
    ],
)
def test_what_has_changed_is_told_in_words(tmp_path: Path, change: Change, name: str, words: str) -> None:
    report = World(tmp_path, change).report()
    assert [each.name for each in report.drifted] == [name]
    assert report.verdict == DRIFTED
    assert words in "; ".join(of(report, name).why)
    assert "score has not" in report.words


def test_a_renamed_category_is_new_and_vanished_with_about_the_same_share(tmp_path: Path) -> None:
    country = of(World(tmp_path, renamed).report(), "country")
    assert country.new.keys() == {"FRA"}
    assert country.vanished.keys() == {"FR"}
    assert country.new_share == pytest.approx(0.3, abs=0.05)


def test_the_score_counts_for_itself(tmp_path: Path) -> None:
    def shift(facts: dict[str, Any], random: np.random.Generator) -> None:
        facts["score"] = min(facts["score"] * 3, 1.0)

    report = World(tmp_path, shift).report()
    assert report.score is not None
    assert report.score.drifted
    assert report.drifted == []
    assert "the score has drifted" in report.words


def test_an_empty_log_and_an_empty_reference_give_no_verdict(tmp_path: Path) -> None:
    empty = SqliteDecisionLog(f"sqlite:///{tmp_path / 'empty.db'}", SCHEMA)
    reference, current, _ = compare.periods(empty, now_us=NOW)
    assert compare.compare(empty, FEATURES, reference, current).verdict == UNKNOWN
    young = World(tmp_path, days=1).report()
    assert young.verdict == UNKNOWN
    assert young.rows_before == 0
    assert young.volume_ratio is None
    assert "0 decisions of the reference" in young.words


def test_late_events_are_placed_by_their_own_time_and_told(tmp_path: Path) -> None:
    def late(facts: dict[str, Any], random: np.random.Generator) -> None:
        if random.random() < 0.5:
            facts["late_us"] = 2 * DAY_US

    report = World(tmp_path, late).report()
    assert report.late == pytest.approx(600, abs=60)
    assert report.rows_now == pytest.approx(1_200, abs=120)


def test_a_clock_that_jumps_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.log.append([decision(transaction((30 * DAY_US + 20 * HOUR_US) // 1_000_000), NOW + 60_000_000)])
    report = world.report()
    assert any("a clock has jumped" in note for note in report.notes)
    assert report.verdict == STABLE


def test_a_replayed_history_is_looked_at_where_it_ends(tmp_path: Path) -> None:
    world = World(tmp_path)
    _, current, _ = compare.periods(world.log, now_us=NOW + 400 * DAY_US)
    assert current.until_us == NOW


def test_a_reference_of_broken_weeks_is_told(tmp_path: Path) -> None:
    report = World(tmp_path).report(reference_us=10 * DAY_US)
    assert any("whole number of weeks" in note for note in report.notes)


def test_a_log_that_is_too_large_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "SLICES", 50)
    world = World(tmp_path)
    reference, current, _ = compare.periods(world.log, now_us=NOW)
    found = sample.read(world.log, reference, current, ahead_us=DAY_US, most=10_000)
    assert 0.15 < found.share < 0.45
    assert found.current.num_rows / found.reference.num_rows == pytest.approx(1 / 14, rel=0.5)


def test_chance_is_not_taken_for_drift() -> None:
    """A hundred reports on ten features without any change."""
    random = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        found = [
            numeric(str(number), *(random.lognormal(size=size) for size in (4_000, 1_000))) for number in range(10)
        ]
        wrong += any(each.drifted for each in compare._adjusted(found))
    assert wrong == 0


def test_a_report_draws_what_has_drifted_and_escapes_it(tmp_path: Path) -> None:
    def evil(facts: dict[str, Any], random: np.random.Generator) -> None:
        facts["country"] = "<script>"

    text = page.render(World(tmp_path, evil).report())
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert text.count("<svg") == 2  # the score, and the country


VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=50)


@given(VALUES, VALUES)
def test_the_index_is_never_negative_and_zero_for_equals(before: list[float], now: list[float]) -> None:
    there = np.array(before)
    there = there[~np.isnan(there)]
    edges = edges_of(there) if len(there) else there
    one, other = (counts_of(np.array(values), edges) for values in (before, now))
    assert one.sum() == len(before)
    assert psi_of_counts(one, other) >= 0
    assert psi_of_counts(one, one) == 0
    assert psi_of_counts(one, other) == pytest.approx(psi_of_counts(other, one))


@given(
    st.lists(st.sampled_from(["a", "b", None]), max_size=30), st.lists(st.sampled_from(["b", "c", None]), max_size=30)
)
def test_categories_of_any_kind_are_compared(before: list[str | None], now: list[str | None]) -> None:
    found = categorical("country", before, now)
    assert found.psi >= 0
    assert 0 <= found.new_share <= 1 + 1e-9
    assert sum(found.now) == pytest.approx(1 if now else 0)


@pytest.mark.parametrize("seed", range(5))
def test_of_many_rare_values_some_are_always_new_and_that_is_no_drift(seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, 50_001)
    before, now = (random.choice(50_000, size, p=weights / weights.sum()).astype(str) for size in (20_000, 4_000))
    same = judged(categorical("merchant", before.tolist(), now.tolist()), 1.0, None, 0.01)
    assert same.new_share > 0.1
    assert not same.drifted
    now[random.random(len(now)) < 0.05] = "a new one"
    changed = judged(categorical("merchant", before.tolist(), now.tolist()), 1.0, None, 0.01)
    assert next(iter(changed.new)) == "a new one"
    assert "new values: 'a new one'" in "; ".join(changed.why)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_the_index_is_that_of_an_established_library(shift: float) -> None:
    """``feature_engine`` computes it, too: on the same bins, with its own small number for empty ones."""
    import pandas as pd
    from feature_engine.selection import DropHighPSIFeatures

    random = np.random.default_rng(1)
    before, now = random.normal(size=20_000), random.normal(shift, 1, 20_000)
    both = pd.DataFrame({"x": np.concatenate([before, now]), "period": [0] * 20_000 + [1] * 20_000})
    theirs = DropHighPSIFeatures(split_col="period", cut_off=0, bins=10, variables=["x"], p_value=0.001)
    theirs.fit(both)
    inner = np.quantile(before, np.linspace(0, 1, 11)[1:-1])
    ours = psi_of_counts(*(counts_of(values, inner) for values in (before, now)))
    assert ours == pytest.approx(theirs.psi_values_["x"], rel=0.02, abs=1e-4)
    found = numeric("x", before, now)
    assert found.psi == pytest.approx(ours, rel=0.05, abs=0.001)
    assert (found.psi > 0.1) == (theirs.psi_values_["x"] > 0.1)
