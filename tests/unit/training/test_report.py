"""The report is one file that needs nothing else, says what it must, and lets nothing through unescaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fraudml.decisions.costs import Costs
from fraudml.events.schema import NO_CURRENCY, AmountColumn, LabelColumn
from fraudml.features.spec import FeatureSet
from fraudml.pages import figures
from fraudml.training import report
from fraudml.training.report import plots
from fraudml.training.report.page import render
from fraudml.training.train import LocalResult
from tests.support.scoring import FEATURES, SCHEMA
from tests.support.training import make_dataset, make_result

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags that are open, ids, references and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in {"src", "href", "xlink:href", "action", "data", "style"}:
                self.references.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def result() -> LocalResult:
    features = FeatureSet(
        SCHEMA_WITH_LABEL := replace_schema(currency="EUR"),
        [*FEATURES.features],
    )
    assert SCHEMA_WITH_LABEL.label is not None
    return make_result(feature_set=features)


def replace_schema(*, currency: str) -> type(SCHEMA):  # type: ignore[valid-type]
    import msgspec

    return msgspec.structs.replace(
        SCHEMA, amount=AmountColumn("amount", currency=currency), label=LabelColumn("fraud", delay="7d")
    ).check()


@pytest.fixture(scope="module")
def text(result: LocalResult) -> str:
    return render(result)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_it_is_written_twice(result: LocalResult, tmp_path: Path) -> None:
    path = report.write(result, tmp_path / "new" / "reports")
    assert re.fullmatch(r"report-\d{8}T\d{6}Z\.html", path.name)
    assert path.read_bytes() == (path.parent / "report.html").read_bytes()
    assert len(list(path.parent.iterdir())) == 2


def test_it_is_well_formed(page: Page) -> None:
    assert page.open == []
    assert page.tags.count("svg") == 6
    assert len(page.ids) == len(set(page.ids)), "ids of one plot must not be those of another"


def test_it_needs_nothing_else(text: str, page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert [each for each in page.references if "url(" in each and "url(#" not in each] == []
    assert [each for each in page.references if "//" in each] == []
    assert "@import" not in text
    for reference in re.findall(r"(?:url\(|href=\")#([^)\"]+)", text):
        assert reference in page.ids


def test_every_colour_follows_light_and_dark_mode(text: str) -> None:
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set()
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", drawn))
    for mode in re.findall(r":root \{.*?\}", text, re.DOTALL):
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", mode))
    assert {"--ink", "--grid", "--series-1", "--series-2"} <= used


def test_it_says_what_the_figures_are(page: Page) -> None:
    words = " ".join(page.words.split())
    assert "All figures are from the held-back period" in words
    assert "which no model had seen and which decided nothing" in words
    assert "by average precision on the validation period" in words
    assert "afterwards refitted" in words
    assert "No figure here is of the refitted models" in words


def test_it_has_the_figures(result: LocalResult, page: Page) -> None:
    words = " ".join(page.words.split())
    for candidate in result.candidates:
        assert candidate.family in words
        for value in (candidate.test_metrics["average_precision"], candidate.test_metrics["roc_auc"]):
            assert f"{value:.4f}" in words
        assert f"{candidate.thresholds.review:.4g}" in words
    money = result.candidates[0].money
    assert f"{money['saved_per_day']:,.0f} EUR" in words
    assert f"{money['saved_per_day_low']:,.0f} EUR to {money['saved_per_day_high']:,.0f} EUR" in words
    assert result.feature_set.fingerprint in words
    assert result.data.content_hash() in words
    assert "7 days" in words
    for name in FEATURES.input_names[:2]:
        assert name in words
    assert "Cost per day (EUR)" in words


def test_the_periods_are_those_of_the_split(result: LocalResult, page: Page) -> None:
    words = " ".join(page.words.split())
    for rows in (result.parts.train, result.parts.valid, result.parts.test):
        assert f"{int(rows.sum()):,} {int(result.data.y[rows].sum())}" in words
    left_out = len(result.data) - int((result.parts.train | result.parts.valid | result.parts.test).sum())
    assert f"{left_out:,} transactions whose labels were not all known" in words


def test_names_are_escaped(result: LocalResult) -> None:
    evil = "<script>alert(1)</script> & \"'"
    features = FeatureSet(
        result.feature_set.schema, [copy_with_text(feature, evil) for feature in result.feature_set.features]
    )
    candidates = [replace(result.candidates[0], family=evil), *result.candidates[1:]]
    text = render(replace(result, feature_set=features, candidates=candidates))
    assert "<script" not in text
    assert "alert(1)" in Page(text).words
    assert Page(text).open == []


def copy_with_text(feature: object, text: str) -> object:
    import msgspec

    return msgspec.structs.replace(feature, text=text)


def test_without_amounts_there_is_no_currency(result: LocalResult) -> None:
    plain = FeatureSet(replace_schema(currency=NO_CURRENCY), FEATURES.features)
    text = render(replace(result, feature_set=plain))
    assert "EUR" not in text
    assert NO_CURRENCY not in text


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(lambda y: np.full(len(y), 0.01), id="constant"),
        pytest.param(lambda y: y.astype(np.float64), id="perfect and certain"),
        pytest.param(lambda y: 1 - y.astype(np.float64), id="always wrong"),
        pytest.param(lambda y: np.linspace(0, 1e-12, len(y)), id="tiny"),
    ],
)
def test_odd_scores_are_drawn(result: LocalResult, scores: object) -> None:
    best = result.candidates[0]
    odd = replace(best, scores=scores(result.data.y[result.parts.test]))  # type: ignore[operator]
    assert Page(render(replace(result, candidates=[odd]))).open == []


def test_a_week_without_frauds_is_a_gap(result: LocalResult) -> None:
    weeks = [
        {"start_us": 0, "rows": 10, "frauds": 0, "average_precision": None},
        {"start_us": 604_800_000_000, "rows": 10, "frauds": 1, "average_precision": 0.5},
    ]
    drawn = plots.by_week([replace(result.candidates[0], weeks=weeks)])
    assert "01 Jan" in drawn
    assert "08 Jan" in drawn
    worthless = [weeks[0] | {"average_precision": 0.0}, weeks[1]]
    assert drawn != plots.by_week([replace(result.candidates[0], weeks=worthless)]), "a gap is no zero"


def test_a_size_that_large_files_have() -> None:
    """The page does not grow with the data: curves are thinned."""
    small = render(make_result(make_dataset(4_000)))
    large = render(make_result(make_dataset(40_000)))
    assert len(large) < 1.5 * len(small)
    assert len(large) < 400_000


def test_reliability_points_by_hand() -> None:
    y = np.array([0] * 90 + [1] * 10 + [0] * 20 + [1] * 80, dtype=np.int8)
    scores = np.array([0.1] * 100 + [0.8] * 100)
    score, rate, low, high = plots.reliability_points(y, scores)
    np.testing.assert_allclose(score, [0.1, 0.8])
    np.testing.assert_allclose(rate, [0.1, 0.8])
    # Wilson's interval for 10 and 80 of 100
    np.testing.assert_allclose(low, [0.0552, 0.7112], atol=1e-3)
    np.testing.assert_allclose(high, [0.1744, 0.8666], atol=1e-3)


def test_costs_in_the_plot_meet_the_costs_in_the_table(result: LocalResult) -> None:
    """The curve of cost by reviews passes through the thresholds chosen."""
    test = result.data.take(result.parts.test)
    for candidate in result.candidates:
        reviews, cost = plots.costs_by_reviews(result, candidate, test)
        np.testing.assert_allclose(
            np.interp(candidate.money["reviews_per_day"], reviews, cost), candidate.money["cost_per_day"], rtol=1e-9
        )


def test_no_state_of_matplotlib_is_changed(result: LocalResult) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.score_distribution(result.candidates[0], result.data.take(result.parts.test))
    assert dict(mpl.rcParams) == before


def test_an_error_while_drawing_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError), figures.drawing("x", "x"):
        1 / 0  # noqa: B018


def test_costs_are_those_declared(result: LocalResult) -> None:
    text = " ".join(Page(render(replace(result, costs=Costs(chargeback_fee=17.5, reviews_per_day=37)))).words.split())
    assert "plus 17.50 EUR" in text
    assert "at most 37 reviews a day" in text
